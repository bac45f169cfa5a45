"""Data parallelism: on two devices a step is the step on one. The two are a CPU that the backend takes for two."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import BadInput, backend
from convspec.data.datasets import Dataset
from convspec.ladder.run import run_recipe
from convspec.ladder.rungs import find_recipe

NOT_TWO = (
    "must be 1 on PyTorch" if keras.backend.backend() == "torch" else "must be at most 1, as .*:0 are all there are"
)

# Trains one model on one device and on two, on 21 pictures for validation, which do not divide, and one over a batch.
BOTH = """
import sys
import numpy as np
if sys.argv[1] == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from convspec import gradients, images, shapes, training

pictures, labels = shapes.pictures(shapes.TARGETS, 40, seed=1)
mixed = np.random.default_rng(0).permutation(len(labels))
pictures, labels = pictures[mixed], labels[mixed]
train = images.Batches(pictures[:40], labels[:40], 20, images.rescale)
held_out = images.Batches(pictures[-21:], labels[-21:], 20, images.rescale)
kept = {"devices": gradients._devices()}

def compiled():
    keras.utils.set_random_seed(0)
    layers = keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.MaxPooling2D(4), keras.layers.Flatten()
    model = keras.Sequential([keras.Input((48, 48, 3)), *layers, keras.layers.Dense(1, activation="sigmoid")])
    training.compile_model(model, 1e-3)
    return model

def keep(name, model, history):
    for kind, variables in (("weights", model.weights), ("slots", model.optimizer.variables)):
        for number, variable in enumerate(variables):
            kept[f"{name} {kind} {number:02d}"] = keras.ops.convert_to_numpy(variable)
    kept.update({f"{name} {metric}": values for metric, values in history.items()})

class AfterEachStep:
    def save(self, model, history, clock):
        keep(f"{devices} after {len(history['loss'])}", model, history)
        if devices == 2:
            kernel = model.weights[0].value
            on_each = getattr(kernel, "values", [kernel]) if sys.argv[1] == "tensorflow" else kernel.devices()
            kept["2 hold"] = len(on_each)

training.CHECKPOINT_EVERY = -1
keep("before", compiled(), {})
for devices in (1, 2):
    training.fit(
        model := compiled(), images.stream(train, 0), 4, 1, held_out,
        clock=training.Clock(), history={}, checkpoint=AfterEachStep(), devices=devices,
    )
    keep(f"{devices} at the end", model, {})
half = images.Batches(pictures[:10], labels[:10], 10, images.rescale)
training.fit(model := compiled(), images.stream(half, 0), 1, 1, None, clock=training.Clock(), history={})
keep("half", model, {})
odd = images.Batches(pictures[:40], labels[:40], 15, images.rescale)
try:
    training.fit(compiled(), images.stream(odd, 0), 1, 1, None, clock=training.Clock(), history={}, devices=2)
    kept["odd"] = "nothing"
except Exception as error:
    kept["odd"] = f"{type(error).__name__}: {error}"
np.savez(sys.argv[2], **kept)
"""


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("tensorflow", "jax")])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What came out of BOTH on a backend."""
    if not find_spec(request.param):
        pytest.skip(f"needs {request.param}: pip install -e '.[{request.param}]'")
    file = tmp_path_factory.mktemp("devices") / "kept.npz"
    settings = {"KERAS_BACKEND": request.param, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-P", "-c", BOTH, request.param, str(file)]
    subprocess.run(command, env=os.environ | settings, check=True, timeout=300)
    with np.load(file) as kept:
        return dict(kept)


def variables(trained: dict[str, np.ndarray], name: str, kind: str) -> list[np.ndarray]:
    found = [value for key, value in trained.items() if key.startswith(f"{name} {kind} ")]
    assert len(found) >= 4, f"{name}: no {kind}"
    return found


def furthest(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    return max(float(np.abs(one - other).max()) for one, other in zip(ones, others, strict=True))


def test_each_of_two_devices_has_the_model(trained: dict[str, np.ndarray]) -> None:
    assert len(trained["devices"]) == 2
    assert trained["2 hold"] == 2


def test_two_devices_make_the_update_that_one_makes_of_the_same_batch(trained: dict[str, np.ndarray]) -> None:
    """To 1e-5, where the step itself is 3e-3 for every weight; half of the batch alone gives another."""
    weights = {name: variables(trained, name, "weights") for name in ("before", "1 after 1", "2 after 1", "half")}
    assert furthest(weights["1 after 1"], weights["2 after 1"]) < 1e-5
    assert furthest(weights["1 after 1"], weights["before"]) > 1e-3
    assert furthest(weights["1 after 1"], weights["half"]) > 1e-3


def test_the_optimizer_has_the_slots_that_it_has_on_one_device(trained: dict[str, np.ndarray]) -> None:
    """They are means of squares, as small as 1e-6: to 1e-5 of the largest of each."""
    names = ("1 after 1", "2 after 1", "half")
    one, two, half = (variables(trained, name, "slots") for name in names)
    for position, (expected, found) in enumerate(zip(one, two, strict=True)):
        scale = np.abs(expected).max() or 1
        assert np.abs(found - expected).max() < 1e-5 * scale, f"slot {position}"
    assert furthest(one[2:], half[2:]) > 1e-6, "the slots of another batch are others"


def test_batches_come_in_the_same_order_and_none_is_left_out(trained: dict[str, np.ndarray]) -> None:
    """Keras draws batches before training begins, to build the model from, and in TensorFlow drops them.

    The losses of four steps, whose roundings each step makes larger: to 1e-4, a hundredth of the change.
    """
    for metric in ("loss", "accuracy"):
        np.testing.assert_allclose(trained[f"2 after 4 {metric}"], trained[f"1 after 4 {metric}"], atol=1e-4)
    assert np.ptp(trained["1 after 4 loss"]) > 1e-2


def test_the_model_that_was_given_is_the_trained_one_in_the_end(trained: dict[str, np.ndarray]) -> None:
    for kind in ("weights", "slots"):
        copy, given = (variables(trained, name, kind) for name in ("2 after 4", "2 at the end"))
        assert furthest(copy, given) == 0, kind


def test_validation_counts_each_picture_once_where_they_do_not_divide(trained: dict[str, np.ndarray]) -> None:
    for metric in ("val_loss", "val_accuracy"):
        assert len(trained[f"2 after 4 {metric}"]) == 4
        np.testing.assert_allclose(trained[f"2 after 4 {metric}"], trained[f"1 after 4 {metric}"], atol=1e-4)


def test_a_batch_without_even_shares_is_refused_with_the_numbers_that_have(trained: dict[str, np.ndarray]) -> None:
    assert str(trained["odd"]) == "BadInput: devices must divide the batch of 15 evenly, got 2: take one of 1, 3, 5, 15"


def test_a_share_is_an_even_part_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(backend, "_devices", lambda: ["GPU:0", "GPU:1", "GPU:2", "GPU:3"])
    assert [backend.batch_share(20, devices) for devices in (1, 2, 4)] == [20, 10, 5]


def test_more_devices_than_there_are_are_refused_before_anything_runs(few_shapes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"devices {NOT_TWO}.*, got 2"):
        run_recipe(find_recipe("dense_baseline", "mini"), few_shapes, 0, tmp_path, devices=2)
    assert not any(tmp_path.iterdir())


def test_on_pytorch_several_devices_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(BadInput, match=r"on PyTorch.*got 2: set KERAS_BACKEND=jax or KERAS_BACKEND=tensorflow"):
        backend.batch_share(20, 2)


def test_the_option_reaches_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from convspec import BadInput
        from convspec.recipes import find_recipe

        def test_it(convspec_session):
            with pytest.raises(BadInput, match="devices must be .*1.*got 64"):
                convspec_session.run(find_recipe("dense_baseline", "mini"), 0)
        """
    )
    pytester.runpytest("--devices", "64").assert_outcomes(passed=1)
