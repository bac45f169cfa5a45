"""Class activation maps (listings 5.40 to 5.44) and occlusion, held against NumPy and known answers."""

import gc
import weakref
from collections.abc import Callable
from typing import Any, get_args

import keras
import numpy as np
import pytest
from builders import noting_layer
from keras import layers
from scipy import special

from convspec import BadInput, models
from convspec.reference import conv2d
from convspec.visualization import class_activation_map
from convspec.visualization import maps as maps_module
from convspec.visualization.maps import GradientOf, class_activation_maps, occlusion_map


@pytest.fixture(scope="module")
def base() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))


@pytest.fixture(scope="module")
def head() -> list[keras.layers.Layer]:
    keras.utils.set_random_seed(5)
    return [layers.Flatten(), layers.Dense(8, activation="relu"), layers.Dense(1, activation="sigmoid")]


@pytest.fixture(scope="module")
def nested(base: keras.Model, head: list[keras.layers.Layer]) -> keras.Model:
    """The chapter's fine-tuned model in small: a base, as one layer, in a Sequential."""
    return keras.Sequential([keras.Input((48, 48, 3)), base, *head])


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.random((48, 48, 3)).astype(np.float32)


@pytest.fixture
def small(rng: np.random.Generator) -> np.ndarray:
    """A picture for `linear`."""
    return rng.uniform(-1, 1, (7, 6, 3)).astype(np.float32)


def linear(units: int, activation: str | None, rng: np.random.Generator) -> tuple[keras.Model, list[np.ndarray]]:
    """A convolution without activation and a Dense layer, and the weights of both."""
    stack = [layers.Conv2D(4, 3, name="maps"), layers.Flatten(), layers.Dense(units, activation=activation)]
    model = keras.Sequential([keras.Input((7, 6, 3)), *stack])
    weights = [rng.normal(size=weight.shape).astype(np.float32) for weight in model.get_weights()]
    model.set_weights(weights)
    return model, weights


def scaled(heatmap: np.ndarray) -> np.ndarray:
    heatmap = np.maximum(heatmap, 0)
    assert heatmap.any(), "a map of zeros tells nothing"
    return heatmap / heatmap.max()


def by_hand(image: np.ndarray, weights: list[np.ndarray], unit: int, sign: int = 1) -> np.ndarray:
    """Grad-CAM of `linear`, whose gradient with respect to the maps is the Dense layer's own weights."""
    maps = conv2d(image, weights[0], weights[1])
    importance = sign * weights[2][:, unit].reshape(maps.shape).mean(axis=(0, 1))
    return scaled((maps * importance).sum(axis=-1))


@pytest.mark.parametrize(
    ("activation", "units", "index", "unit", "sign"),
    [("sigmoid", 1, 1, 0, 1), ("sigmoid", 1, 0, 0, -1), *(("softmax", 3, index, index, 1) for index in range(3))],
)
def test_a_class_has_the_map_of_its_logit_or_of_the_negated_one(
    activation: str, units: int, index: int, unit: int, sign: int, small: np.ndarray, rng: np.random.Generator
) -> None:
    model, weights = linear(units, activation, rng)
    expected = by_hand(small, weights, unit, sign)
    for image in (small, small[None]):  # listing 5.28 hands over a batch of one
        np.testing.assert_allclose(class_activation_map(model, image, index), expected, atol=1e-5)


def test_of_the_probability_rivals_count_by_their_own_probabilities(
    small: np.ndarray, rng: np.random.Generator
) -> None:
    """Listing 5.42: the softmax's gradient is p times the class's own, less the mean of all by their probabilities."""
    model, weights = linear(3, "softmax", rng)
    weights[2] /= 20  # so that no class is certain
    model.set_weights(weights)
    maps = conv2d(small, weights[0], weights[1])
    shares = special.softmax(maps.ravel() @ weights[2] + weights[3])
    assert shares.max() < 0.9
    maps_of_probability = [class_activation_map(model, small, index, of="probability") for index in range(3)]
    for index, heatmap in enumerate(maps_of_probability):
        importance = (weights[2][:, index] - weights[2] @ shares).reshape(maps.shape).mean(axis=(0, 1))
        np.testing.assert_allclose(heatmap, scaled((maps * importance).sum(axis=-1)), atol=1e-4)
        assert np.abs(heatmap - class_activation_map(model, small, index)).max() > 0.1
    several = class_activation_maps(model, np.stack([small] * 3), [0, 1, 2], of="probability")
    np.testing.assert_allclose(several, maps_of_probability, atol=1e-4)
    scores = class_activation_maps(model, np.stack([small] * 3), [0, 1, 2])
    assert np.abs(several - scores).max() > 0.1, "what was compiled for the one is not taken for the other"
    predicted = int(shares.argmax())
    np.testing.assert_array_equal(class_activation_map(model, small, of="probability"), maps_of_probability[predicted])


@pytest.mark.parametrize("index", [0, 1])
def test_of_one_unit_score_and_probability_have_the_same_map(
    index: int, small: np.ndarray, rng: np.random.Generator
) -> None:
    """A sigmoid's gradient is its input's times a number; in 32 bits it is 0 where the model is certain."""
    model, weights = linear(1, "sigmoid", rng)
    weights[2] /= 20
    model.set_weights(weights)
    for predicted_or_named in (index, None):
        score, probability = (
            class_activation_map(model, small, predicted_or_named, of=of) for of in get_args(GradientOf)
        )
        np.testing.assert_allclose(probability, score, atol=1e-4)
    model.set_weights([*weights[:3], np.array([200], np.float32)])
    assert class_activation_map(model, small).any()
    assert not class_activation_map(model, small, of="probability").any()


@pytest.mark.parametrize(
    "end",
    [
        lambda logits: logits,
        lambda logits: layers.Activation("softmax", dtype="float32")(logits),
        lambda logits: layers.Softmax()(logits),
        lambda logits: keras.ops.softmax(logits),
        lambda logits: layers.Reshape((3,))(layers.Dropout(0.5)(layers.Reshape((1, 3))(layers.Softmax()(logits)))),
        lambda logits: layers.Activation("linear")(layers.Softmax(dtype="bfloat16")(logits)),
    ],
    ids=["none", "Activation", "Softmax", "operation", "reshaped", "cast"],
)
def test_the_map_is_before_the_softmax_however_it_is_written(
    end: Callable[[Any], Any], small: np.ndarray, rng: np.random.Generator
) -> None:
    model, weights = linear(3, None, rng)
    heatmap = class_activation_map(keras.Model(model.inputs, end(model.outputs[0])), small, 1)
    np.testing.assert_allclose(heatmap, by_hand(small, weights, 1), atol=1e-5)


@pytest.mark.parametrize(("units", "activation"), [(3, "softmax"), (1, "sigmoid")])
def test_without_an_index_the_class_is_the_one_predicted(
    units: int, activation: str, small: np.ndarray, rng: np.random.Generator
) -> None:
    model, weights = linear(units, activation, rng)
    model.set_weights([weight * (weight.ndim > 1) for weight in weights])  # without biases
    output = model.predict(np.stack([small, -small]), verbose=0)
    predicted = output.argmax(axis=-1) if units > 1 else (output[:, 0] > 0.5).astype(int)
    assert predicted[0] != predicted[1], "the negative should be of another class"
    for image, index in zip((small, -small), predicted.tolist(), strict=True):
        np.testing.assert_array_equal(class_activation_map(model, image), class_activation_map(model, image, index))
        np.testing.assert_array_equal(occlusion_map(model, image), occlusion_map(model, image, index))


def same_but(kind: str, base: keras.Model, head: list[keras.layers.Layer]) -> keras.Model:
    """The model of `nested`, built otherwise from the same layers."""
    inputs = keras.Input((48, 48, 3))
    if kind == "flat Sequential":
        return keras.Sequential([inputs, *base.layers[1:], *head])
    top = keras.Sequential([keras.Input(base.output_shape[1:]), *head])
    if kind == "nested twice":
        return keras.Model(inputs, top(keras.Sequential([keras.Input((48, 48, 3)), base])(inputs)))
    output = base(inputs) if kind == "nested functional" else inputs
    for layer in head if kind == "nested functional" else [*base.layers[1:], *head]:
        output = layer(output)
    return keras.Model(inputs, [output])  # a list of one output


@pytest.mark.parametrize("kind", ["flat Sequential", "flat functional", "nested functional", "nested twice"])
def test_a_nested_model_has_the_map_of_the_same_model_flattened(
    kind: str, nested: keras.Model, base: keras.Model, head: list[keras.layers.Layer], picture: np.ndarray
) -> None:
    expected = class_activation_map(nested, picture, 1)
    assert expected.max() == 1
    assert expected.shape == (6, 6), "block4_conv2, the last convolution, was not the one that was taken"
    heatmap = class_activation_map(same_but(kind, base, head), picture, 1)
    np.testing.assert_allclose(heatmap, expected, atol=1e-4)


def test_any_layer_can_be_asked_for_its_map(nested: keras.Model, picture: np.ndarray) -> None:
    last, named, early = (class_activation_map(nested, picture, 0, n) for n in (None, "block4_conv2", "block2_pool"))
    np.testing.assert_array_equal(last, named)
    assert early.shape == (12, 12)


def residual(merge: keras.Layer, top: keras.Layer) -> keras.Model:
    inputs = keras.Input((6, 6, 3))
    first = layers.Conv2D(4, 1)(inputs)
    second = layers.Conv2D(4, 3, padding="same")(first)
    return keras.Model(inputs, layers.Dense(2)(top(merge([first, second]))))


def test_a_shortcut_around_the_convolution_is_no_part_of_its_map(rng: np.random.Generator) -> None:
    """A residual block cannot be cut in two at its convolution; the sum behind it still has two sides."""
    model = residual(layers.Add(), layers.GlobalAveragePooling2D())
    weights = [rng.normal(size=weight.shape).astype(np.float32) for weight in model.get_weights()]
    model.set_weights(weights)
    image = rng.random((6, 6, 3)).astype(np.float32)
    maps = conv2d(conv2d(image, weights[0], weights[1]), weights[2], weights[3], padding="same")
    np.testing.assert_allclose(class_activation_map(model, image, 1), scaled(maps @ weights[4][:, 1]), atol=1e-5)


def test_pictures_in_a_batch_keep_their_own_shortcuts(rng: np.random.Generator) -> None:
    """Here the shortcut decides the gradient."""
    model = residual(layers.Multiply(), layers.Flatten())
    images = rng.normal(size=(3, 6, 6, 3)).astype(np.float32)
    for image, heatmap in zip(images, class_activation_maps(model, images, 1), strict=True):
        assert heatmap.any()
        np.testing.assert_allclose(heatmap, class_activation_map(model, image, 1), atol=1e-4)


@pytest.mark.parametrize("indices", [None, 1, [0, 1, 1, 0, 1]], ids=["predicted", "one", "one for each"])
def test_several_pictures_have_the_maps_that_each_has_alone(
    indices: Any, nested: keras.Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = rng.random((5, 48, 48, 3)).astype(np.float32)
    monkeypatch.setattr(maps_module, "BATCH", 2)
    together = class_activation_maps(nested, images, indices)  # the last pass has one
    for image, index, heatmap in zip(images, np.broadcast_to(indices, 5).tolist(), together, strict=True):
        np.testing.assert_allclose(heatmap, class_activation_map(nested, image, index), atol=1e-4)


def test_what_is_compiled_is_kept_and_follows_weights_and_layers(rng: np.random.Generator) -> None:
    calls: list[str] = []
    stack = [noting_layer(calls, "first"), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((6, 6, 3)), *stack])
    images = rng.random((2, 6, 6, 3)).astype(np.float32)

    def agrees() -> None:
        for image, heatmap in zip(images, class_activation_maps(model, images, 1), strict=True):
            np.testing.assert_allclose(heatmap, class_activation_map(model, image, 1), atol=1e-4)

    before = set(vars(model))
    agrees()
    assert set(vars(model)) == before, "something was left in the model"
    calls.clear()
    class_activation_maps(model, images, 1)
    assert keras.backend.backend() == "torch" or not calls, "compiled once"
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    agrees()
    model.layers[1].activation = keras.activations.tanh
    agrees()
    model.layers[1].enable_lora(2)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    agrees()
    model.pop()
    model.add(layers.Dense(2))
    agrees()


def test_what_was_asked_before_changes_no_map(rng: np.random.Generator) -> None:
    """Pictures of another size, where another convolution is the last with maps, and weights that were none."""
    stack = [layers.Conv2D(4, 3, 4, activation="relu"), layers.Conv2D(4, 3, 2, padding="same")]
    model = keras.Sequential([keras.Input((None, None, 3)), *stack, layers.GlobalMaxPooling2D(), layers.Dense(2)])
    small, large = rng.random((2, 7, 7, 3)), rng.random((2, 32, 32, 3))
    weights = model.get_weights()
    model.set_weights([np.full_like(weight, np.nan) for weight in weights])
    with pytest.raises(BadInput, match="must be finite"):
        class_activation_maps(model, large, 1)
    model.set_weights(weights)
    for images in (small, large):
        maps, alone = class_activation_maps(model, images, 1), [class_activation_map(model, each, 1) for each in images]
        np.testing.assert_allclose(maps, alone, atol=1e-4)


def test_what_is_compiled_goes_with_its_model(rng: np.random.Generator) -> None:
    model, _ = linear(3, "softmax", rng)
    class_activation_maps(model, rng.random((2, 7, 6, 3)), 1)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_what_comes_before_the_layer_is_run_once(rng: np.random.Generator) -> None:
    calls: list[str] = []
    stack = [noting_layer(calls, "first"), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((6, 6, 3)), *stack])
    calls.clear()
    class_activation_map(model, rng.random((6, 6, 3)))
    assert calls == ["first"], "only the part above the convolution is run for its gradient"


@pytest.mark.parametrize("where", ["weights of 0", "units that are off", "no dependence"])
def test_the_map_is_0_where_no_gradient_flows(where: str, rng: np.random.Generator) -> None:
    inputs = keras.Input((6, 6, 3))
    flat = layers.Flatten()(layers.Conv2D(4, 3)(inputs))
    hidden = layers.Dense(5, activation="relu")
    cut = keras.ops.stop_gradient(flat) if where == "no dependence" else flat
    model = keras.Model(inputs, layers.Dense(2)(hidden(cut)))
    kernel, bias = hidden.get_weights()
    hidden.set_weights({"weights of 0": [kernel * 0, bias + 1], "units that are off": [kernel, bias - 1000]}.get(
        where, [kernel, bias]
    ))  # fmt: skip
    for index in (0, 1):
        heatmap = class_activation_map(model, rng.random((6, 6, 3)), index)
        np.testing.assert_array_equal(heatmap, np.zeros((4, 4), np.float32))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_a_model_in_another_precision_has_nearly_the_same_map(policy: str, picture: np.ndarray) -> None:
    maps = []
    for precision in ("float32", policy):
        base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3), precision)
        keras.utils.set_random_seed(2)
        head = [layers.GlobalAveragePooling2D(dtype=precision), layers.Dense(2, "softmax", dtype="float32")]
        model = keras.Sequential([keras.Input((48, 48, 3)), base, *head])
        maps.append(class_activation_map(model, picture, 1))
        assert maps[-1].dtype == np.float32
    assert np.abs(maps[1] - maps[0]).max() < 0.1, "bfloat16 has 8 bits"
    assert maps[0].max() == 1


def test_occlusion_is_the_mean_fall_under_the_squares_on_a_pixel(
    small: np.ndarray, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps_module, "BATCH", 4)
    model, weights = linear(3, "softmax", rng)

    def logit(seen: np.ndarray) -> float:
        return float(conv2d(seen, weights[0], weights[1]).ravel() @ weights[2][:, 0])

    falls, times = np.zeros((7, 6)), np.zeros((7, 6))
    for top in (0, 2, 3):  # by half a square, and one at the edge
        for left in (0, 2):
            seen = small.copy()
            seen[top : top + 4, left : left + 4] = small.mean(axis=(0, 1))
            falls[top : top + 4, left : left + 4] += logit(small) - logit(seen)
            times[top : top + 4, left : left + 4] += 1
    np.testing.assert_allclose(occlusion_map(model, small, 0, patch=4), scaled(falls / times), atol=1e-4)


def test_covering_a_picture_of_one_colour_changes_nothing(nested: keras.Model) -> None:
    assert not occlusion_map(nested, np.full((48, 48, 3), 0.5), patch=24).any()


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("draw", [class_activation_map, occlusion_map])
def test_nan_in_the_model_is_refused(layer: int, draw: Callable[..., np.ndarray], rng: np.random.Generator) -> None:
    model, _ = linear(2, "softmax", rng)
    kernel, bias = model.layers[layer].get_weights()
    model.layers[layer].set_weights([kernel, bias * np.nan])
    with pytest.raises(BadInput, match=r"output for the first image must be finite, got \d of 2"):
        draw(model, rng.random((7, 6, 3)))
