"""Freezing (section 5.3): frozen tensors stay bit for bit, thawed ones move, and a change must be compiled."""

from collections.abc import Callable

import keras
import numpy as np
import pytest

from convspec import BadInput, models, progress
from convspec.data.batches import Batches, identity, stream
from convspec.training import compile_model, fit


def _mini() -> tuple[keras.Model, keras.Model]:
    """Return a small base with random weights, and the same with a head."""
    base = models.conv_base("mini", None, (16, 16, 3))
    return base, models.end_to_end(base)


def _normalised() -> tuple[keras.Model, keras.Model]:
    """Return a base of three convolutions, each normalised, and the same with a head."""
    keras.utils.set_random_seed(3)
    base = keras.Sequential([keras.Input((16, 16, 3))], name="normalised")
    for number in (1, 2, 3):
        base.add(keras.layers.Conv2D(4, 3, activation="relu", use_bias=False, name=f"conv_{number}"))
        base.add(keras.layers.BatchNormalization(name=f"norm_{number}"))
    return base, models.end_to_end(base)


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(5).random((8, 16, 16, 3), np.float32), np.arange(8) % 2


def _train(model: keras.Model, steps: int = 3) -> None:
    """Take a few real training steps through the package."""
    batches = Batches(*_pictures(), 4, identity)
    fit(model, stream(batches, 0), 1, steps, None, clock=progress.Clock(), history={})


def _moved(model: keras.Model, act: Callable[[], None]) -> set[str]:
    """Return paths of the tensors, moving statistics included, that are not bit for bit the same after `act`."""
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]
    act()
    after = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    return {
        weight.path
        for weight, old, new in zip(model.weights, before, after, strict=True)
        if old.tobytes() != new.tobytes()
    }


def _paths(layers: list[keras.Layer]) -> set[str]:
    return {weight.path for layer in layers for weight in layer.weights}


def _head(model: keras.Model) -> set[str]:
    return _paths(model.layers[-2:])


def test_frozen_only_the_head_moves_and_once_thawed_the_top_as_well() -> None:
    """Section 5.3.1, "only the weights from the two Dense layers that you added", and listing 5.22.

    Moving statistics, of which there are some below and some above, are like other tensors.
    """
    base, model = _normalised()
    models.freeze(base)
    compile_model(model, 1e-3)
    assert len(_head(model)) == 4
    assert _moved(model, lambda: _train(model)) == _head(model)
    models.thaw_from(base, "conv_2")
    compile_model(model, 1e-3)
    top = _paths(base.layers[-4:])
    assert _moved(model, lambda: _train(model)) == top | _head(model)


CHANGES: dict[str, Callable[[keras.Model], None]] = {
    "frozen": models.freeze,
    "thawed": lambda base: setattr(base, "trainable", True),
    "partly thawed": lambda base: models.thaw_from(base, "block4_conv2"),
}


def _compiled_before(change: str) -> tuple[keras.Model, keras.Model]:
    base, model = _mini()
    base.trainable = change == "frozen"
    compile_model(model, 1e-3)
    return base, model


@pytest.mark.parametrize(
    ("change", "trained"), [("frozen", True), ("thawed", False), ("partly thawed", True), ("partly thawed", False)]
)
def test_a_change_of_trainable_that_was_not_compiled_is_refused(change: str, trained: bool) -> None:
    """Caught, not ignored, and the same on every backend; nothing is trained."""
    base, model = _compiled_before(change)
    if trained:
        _train(model)
    CHANGES[change](base)

    def refused() -> None:
        layers = "block4_conv2" if change == "partly thawed" else "block1_conv1, .*block4_conv2"
        with pytest.raises(BadInput, match=rf"trainable.* of {layers} changed .*compile the model again"):
            _train(model)

    assert not _moved(model, refused)


def test_a_change_of_trainable_compiled_or_taken_back_is_heeded() -> None:
    base, model = _compiled_before(change := "partly thawed")
    _train(model)
    was = [layer.trainable for layer in base.layers]
    CHANGES[change](base)
    base.trainable = True
    for layer, trainable in zip(base.layers, was, strict=True):
        layer.trainable = trainable
    _train(model)
    CHANGES[change](base)
    compile_model(model, 1e-3)
    assert _moved(model, lambda: _train(model)) == {weight.path for weight in model.trainable_weights}
