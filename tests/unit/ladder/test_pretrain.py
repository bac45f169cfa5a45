"""The base in the package: it knows other forms only, and pretraining rebuilds it."""

from typing import Any

import keras
import numpy as np
import pytest

from convspec import models
from convspec.data import shapes
from convspec.data.batches import rescale
from convspec.ladder import pretrain

SIDE = shapes.SIZE


def features(base: keras.Model, images: np.ndarray) -> np.ndarray:
    return base.predict(rescale(images), batch_size=64, verbose=0).reshape(len(images), -1)


def nearest_centroid(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The class whose mean over `train` is nearest to each of `test`."""
    means = np.stack([train[labels == label].mean(axis=0) for label in np.unique(labels)])
    return np.argmin((means**2).sum(axis=1) - 2 * test @ means.T, axis=1)


@pytest.fixture(scope="module")
def packaged() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (SIDE, SIDE, 3))


def test_the_packaged_weights_are_under_two_megabytes() -> None:
    assert models.MINI_WEIGHTS.stat().st_size < 2_000_000


# By chance 1 in 24 of the source classes is right (0.042 +- 0.014 of 192 pictures), and one half of the two targets.
@pytest.mark.parametrize(
    ("forms", "parts", "least", "low", "high"),
    [
        (shapes.SOURCES, ((15, 100), (8, 101)), 0.5, 0, 0.2),  # seeds that the base was not trained on
        (shapes.TARGETS, ((100, 1), (100, 2)), 0.85, 0.36, 0.64),  # which it never saw
    ],
    ids=["sources", "fish and key"],
)
def test_the_packaged_base_tells_classes_apart_that_pixels_do_not(
    forms: dict[str, shapes.Form], parts: Any, least: float, low: float, high: float, packaged: keras.Model
) -> None:
    (train, labels), (test, truth) = (shapes.pictures(forms, *part) for part in parts)
    right = np.mean(nearest_centroid(features(packaged, train), labels, features(packaged, test)) == truth)
    assert right > least, f"{right:.3f} right: labels or weights are wrong"
    pixels = (rescale(images).reshape(len(images), -1) for images in (train, test))
    blind = np.mean(nearest_centroid(next(pixels), labels, next(pixels)) == truth)
    assert low < blind < high, f"{blind:.3f} from the pixels alone: no colour or place may give the class away"


@pytest.fixture(scope="module")
def short() -> dict[str, Any]:
    """Two short trainings with one seed: their bases, the losses by epoch, and the forms that were drawn."""
    seen: dict[str, Any] = {"bases": [], "losses": [], "forms": set()}
    draw, fit, drawn = shapes.pictures, pretrain.training.fit, {}

    def pictures(forms: dict[str, shapes.Form], per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        seen["forms"].update(forms)
        if (per_class, seed) not in drawn:
            drawn[per_class, seed] = draw(forms, per_class, seed)
        return drawn[per_class, seed]

    def watched(*arguments: Any, **options: Any) -> dict[str, list[float]]:
        history = fit(*arguments, **options)
        seen["losses"].append(history["loss"])
        return history

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "HELD_OUT", 2)
        patch.setattr(pretrain.shapes, "pictures", pictures)
        patch.setattr(pretrain.training, "fit", watched)
        for _ in range(2):
            base, accuracy = pretrain.pretrain(per_class=12, epochs=3, seed=1)
            assert 0 <= accuracy <= 1
            seen["bases"].append(base)
    return seen


@pytest.mark.slow
def test_pretraining_rebuilds_a_base_of_the_packaged_architecture(short: dict[str, Any], packaged: keras.Model) -> None:
    def architecture(base: keras.Model) -> list[tuple[str, str, Any]]:
        return [(type(layer).__name__, layer.name, layer.output.shape) for layer in base.layers[1:]]

    assert architecture(short["bases"][0]) == architecture(packaged)
    assert short["bases"][0].count_params() == packaged.count_params()


@pytest.mark.slow
def test_pretraining_draws_source_classes_only(short: dict[str, Any]) -> None:
    assert short["forms"] == set(shapes.SOURCES)


@pytest.mark.slow
def test_pretraining_learns(short: dict[str, Any]) -> None:
    losses = short["losses"][0]
    assert losses[-1] < losses[0], f"loss by epoch: {losses}"


@pytest.mark.slow
def test_pretraining_with_one_seed_gives_the_same_weights_to_the_last_bit(short: dict[str, Any]) -> None:
    first, again = (base.get_weights() for base in short["bases"])
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert short["losses"][0] == short["losses"][1]


def test_folding_the_batch_normalization_leaves_the_outputs_unchanged() -> None:
    """In float64, whose roundings, 2^-53 each, stay far below 1e-9 of the largest output through six convolutions;
    JAX has none by default, and Keras's normalization rounds to float32 on PyTorch: 2^-24 each, below 1e-5.
    """
    before = keras.config.dtype_policy()
    dtype, tolerance = ("float64", 1e-9) if keras.backend.backend() == "tensorflow" else ("float32", 1e-5)
    keras.config.set_dtype_policy(dtype)
    try:
        rng = np.random.default_rng(0)
        base = models.conv_base("mini", None, (16, 16, 3))
        trained = pretrain._normalised(base, 5)
        for layer in trained.layers:
            if isinstance(layer, keras.layers.BatchNormalization):  # gamma of both signs; variances that aren't one
                channels = layer.gamma.shape[0]
                low, high = np.array([[-2, -1, -1, 0.1], [2, 1, 1, 4]])
                layer.set_weights([rng.uniform(a, b, channels) for a, b in zip(low, high, strict=True)])
        pretrain._fold(trained, base)
        last = keras.Model(trained.input, trained.get_layer("block4_pool").output)
        images = rng.random((4, 16, 16, 3))
        expected, folded = (keras.ops.convert_to_numpy(model(images, training=False)) for model in (last, base))
    finally:
        keras.config.set_dtype_policy(before)
    assert folded.dtype == dtype
    assert expected.std() > 0, "outputs that are all the same would show nothing"
    np.testing.assert_allclose(folded, expected, rtol=0, atol=tolerance * np.abs(expected).max())
