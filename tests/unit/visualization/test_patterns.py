"""Filter patterns, held against NumPy and finite differences."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from convspec import BadInput, models
from convspec.reference import conv2d
from convspec.visualization import activations, class_activation_map, deprocess_image, filter_patterns
from convspec.visualization.patterns import filter_pictures, input_range, inputs_are_bgr


@pytest.fixture(scope="module")
def base() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (None, None, 3))


@pytest.fixture
def smooth(rng: np.random.Generator) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A convolution with a smooth activation, which finite differences get right, and its kernel and bias."""
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3, activation="softplus", name="smooth")])
    kernel, bias = rng.normal(size=(3, 3, 3, 4)) / 500, rng.normal(size=4)
    model.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return model, kernel, bias


def inputs(*args: Any, **kwargs: Any) -> np.ndarray:
    return filter_patterns(*args, **kwargs, as_pictures=False)


def test_deprocessing_spreads_a_tenth_of_the_range_to_each_deviation(rng: np.random.Generator) -> None:
    """Listing 5.37, whose own `x -= x.mean()` changes the caller's array."""
    array = rng.normal(700, 50, (40, 40, 3))
    before = array.copy()
    picture = deprocess_image(array)
    np.testing.assert_array_equal(array, before)
    assert picture.dtype == np.uint8
    expected = np.floor(np.clip((array - array.mean()) / array.std() / 10 + 0.5, 0, 1) * 255)
    assert np.abs(picture - expected).max() <= 1, "EPSILON is left out here"
    assert np.mean(picture == expected) > 0.99
    assert (deprocess_image(np.full((4, 4, 3), 300.0)) == 127).all(), "one colour is grey"


@pytest.mark.parametrize("name", sorted(models.PREPROCESSING))
def test_inputs_are_bgr_where_the_weights_were_trained_so(name: str) -> None:
    bgr = name.startswith(("resnet", "vgg")) and not name.endswith("v2")
    assert inputs_are_bgr(models.PREPROCESSING[name]) == bgr


@pytest.mark.parametrize(("name", "ends"), [("vgg16", (-114.799, 140.201)), ("mobilenet", (-1, 1)), ("mini", (0, 1))])
def test_black_and_white_are_as_the_inputs_are_prepared(name: str, ends: tuple[float, float]) -> None:
    """In the mean over the channels; a pattern of such inputs starts and steps between them."""
    prepare = models.PREPROCESSING[name]
    assert input_range(prepare, 3) == pytest.approx(ends, abs=1e-3)
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(1, 3, name="it")])
    start, one = (filter_pictures(model, prepare, "it", [0], 6, n, as_pictures=False) for n in (0, 1))
    low, scale = ends[0], (ends[1] - ends[0]) / 255
    assert low + 128 * scale - 1e-3 <= start.min() <= start.max() <= low + 148 * scale + 1e-3
    assert np.sqrt(np.mean((one - start) ** 2)) == pytest.approx(scale, rel=0.01), "a step is one shade of 255"


def test_a_step_is_the_gradient_over_its_root_mean_square(smooth: tuple[keras.Model, np.ndarray, np.ndarray]) -> None:
    """Listings 5.34 and 5.36, against central differences of the convolution in NumPy."""
    model, kernel, bias = smooth
    before, after = (inputs(model, "smooth", [2], 5, steps, step=3.0)[0].astype(float) for steps in (0, 1))

    def mean_activation(image: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, conv2d(image, kernel, bias)[..., 2])))

    gradient = np.zeros(before.shape)
    for place in np.ndindex(before.shape):
        nudge = np.zeros(before.shape)
        nudge[place] = 1e-3
        gradient[place] = (mean_activation(before + nudge) - mean_activation(before - nudge)) / 2e-3
    expected = 3 * gradient / (np.sqrt(np.mean(gradient**2)) + 1e-5)
    assert np.abs(expected).max() > 1, "the filter is dead"
    np.testing.assert_allclose(after - before, expected, atol=2e-3)


def test_a_pattern_is_the_same_whatever_else_is_in_its_batch(base: keras.Model) -> None:
    kwargs: dict[str, Any] = {"size": 24, "steps": 5, "value_range": (0, 1)}
    several = inputs(base, "block2_conv1", [7, 3, 11], batch=2, **kwargs)
    for place, index in enumerate((7, 3, 11)):
        alone = inputs(base, "block2_conv1", [index], **kwargs)
        np.testing.assert_allclose(several[place], alone[0], atol=1e-4, err_msg=f"filter {index}")


def test_the_seed_alone_decides_the_noise(base: keras.Model) -> None:
    one, again, other = (inputs(base, "block1_conv1", [0], 20, 3, seed=seed, value_range=(0, 1)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.5


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [layers.Conv2D(2, 3, activation="relu", name="dead")],
        lambda: [layers.Conv2D(2, 3, activation="relu6", name="dead")],
        lambda: [layers.Conv2D(2, 3), layers.Activation("relu", name="dead")],
        lambda: [layers.Conv2D(2, 3), layers.ReLU(name="dead")],
        lambda: [layers.Conv2D(2, 3), layers.ReLU(6.0, name="dead")],
    ],
    ids=["relu", "relu6", "Activation", "ReLU", "ReLU(6)"],
)
def test_a_filter_that_is_dead_on_the_noise_is_brought_to_life(
    stack: Callable[[], list[keras.Layer]], rng: np.random.Generator
) -> None:
    """Its gradient is 0, and the listing gets nowhere; up to its first response the way is that of its input."""
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack()])
    kernel = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)
    dead = kernel - kernel.mean(axis=(0, 1, 2))  # of noise about grey it makes next to nothing
    model.set_weights([dead, np.array([-100, 100], np.float32)])
    start, one, end = (inputs(model, "dead", [0, 1], 8, steps) for steps in (0, 1, 40))
    before, after = (model.predict(each, verbose=0).mean(axis=(1, 2)).diagonal() for each in (start, end))
    assert before[0] == 0, "the filter must be dead on the noise"
    assert after[0] > 0.1
    slope = np.zeros((8, 8, 3))
    for top, left in np.ndindex(6, 6):
        slope[top : top + 3, left : left + 3] += dead[..., 0]
    np.testing.assert_allclose(one[0] - start[0], slope / np.sqrt(np.mean(slope**2)), atol=1e-3)


def test_only_the_layers_up_to_the_filters_decide_the_size(base: keras.Model) -> None:
    """The head takes 48 x 48 only, and the last layers more than six."""
    model = keras.Sequential([keras.Input((48, 48, 3)), base, layers.Flatten(), layers.Dense(1)])
    for size in (6, 30):
        nested, alone = (
            filter_patterns(each, "block2_conv1", [1], size, 2, value_range=(0, 1)) for each in (model, base)
        )
        assert nested.shape == (1, size, size, 3)
        np.testing.assert_array_equal(nested, alone)
    with pytest.raises(BadInput, match="size must leave something of 'block4_conv1' in mini, got 6"):
        filter_patterns(base, "block4_conv1", [0], 6, 1)


class Positions(keras.Layer):
    """Adds weights of its own at each place, as transformers do."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.places = self.add_weight(shape=shape[1:])

    def call(self, inputs: Any) -> Any:
        return inputs + self.places


def test_where_layers_fix_the_size_no_larger_one_is_advised() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), Positions(), layers.Conv2D(2, 3, name="it")])
    assert filter_patterns(model, "it", [0], 8, 1).shape == (1, 8, 8, 3)
    with pytest.raises(BadInput, match=r"size must leave something of 'it' .*, got 9: its layers take 8 x 8 only"):
        filter_patterns(model, "it", [0], 9, 1)


@pytest.mark.parametrize(
    "kind", [layers.Conv2D, layers.SeparableConv2D, layers.DepthwiseConv2D, layers.Conv2DTranspose]
)
def test_any_convolution_has_patterns_and_a_map(kind: Callable[..., Any], rng: np.random.Generator) -> None:
    convolution = kind(kernel_size=3, **({} if kind is layers.DepthwiseConv2D else {"filters": 3}), name="it")
    stack = [layers.Conv2D(3, 3), convolution, layers.GlobalAveragePooling2D(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((12, 12, 1)), *stack])
    patterns = filter_patterns(model, "it", [2], 9, 2)
    assert patterns.shape == (1, 9, 9, 1)
    assert patterns.std() > 0
    heatmap = class_activation_map(model, rng.random((12, 12, 1)))
    assert heatmap.shape == tuple(convolution.output.shape[1:3])


@pytest.mark.parametrize(
    ("layer", "filters", "kwargs", "message"),
    [
        ("conv9", [0], {}, r"no layer 'conv9'"),
        ("smooth", [4], {}, r"filters must be a list of some of 0 to 3.*\[4\]"),
        ("smooth", [-1], {}, r"filters must be a list of some of 0 to 3.*\[-1\]"),
        ("smooth", np.zeros(0, int), {}, r"filters must be a list of some of 0 to 3"),
        ("smooth", [], {}, r"filters must be a list of some of 0 to 3"),
        ("smooth", 2, {}, r"filters must be a list of some of 0 to 3.* got 2"),
        ("smooth", [0], {"size": 2}, r"size must leave something.*got 2"),
        ("smooth", [0], {"steps": -1}, r"steps and step 0, .* -1, 1.0"),
        ("smooth", [0], {"value_range": (1, 0)}, r"value_range must rise, got .* \(1, 0\)"),
    ],
)
def test_what_cannot_work_is_refused_with_value_and_remedy(
    layer: str, filters: Any, kwargs: dict[str, Any], message: str, smooth: tuple[keras.Model, np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(BadInput, match=message):
        filter_patterns(smooth[0], layer, filters, **kwargs)


def test_nan_and_infinity_are_refused(smooth: tuple[keras.Model, np.ndarray, np.ndarray]) -> None:
    model, kernel, bias = smooth
    model.set_weights([kernel * np.nan, bias])
    with pytest.raises(BadInput, match="smooth's patterns must be finite, got 75 of 75 NaN"):
        filter_patterns(model, "smooth", [0], 5, 1)
    with pytest.raises(BadInput, match="array must be finite, got 1 of 2"):
        deprocess_image(np.array([1.0, np.inf]))


@pytest.mark.full
def test_6_6_1_1_and_19_filters_of_vgg16s_blocks_are_dead_on_the_noise(data_folder: Path) -> None:
    """Of the first 64 of each block's first layer, on the listing's noise, 128 to 148: as listed, they stay noise."""
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (64, 64, 3))
    (noise,) = inputs(base, "block1_conv1", [0], size=64, steps=0)
    maps = activations(base, noise)
    dead = [int(np.sum(~maps[f"block{block}_conv1"][..., :64].any(axis=(0, 1)))) for block in range(1, 6)]
    assert dead == [6, 6, 1, 1, 19]


SLOW = pytest.mark.slow  # one to four minutes each on two cores


@pytest.fixture(scope="module", params=[1, *(pytest.param(block, marks=SLOW) for block in (2, 3, 4, 5))])
def responses(request: pytest.FixtureRequest, data_folder: Path) -> tuple[int, np.ndarray, np.ndarray]:
    """A block of VGG16, and mean activations of the first 64 filters of its first layer (figures 5.30 to 5.33).

    (64,) on the grey noise, and (64 patterns, 64 filters) on their patterns. Grey is 0 in VGG16's inputs.
    """
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (64, 64, 3))
    name = f"block{request.param}_conv1"
    start, patterns = (
        inputs(base, name, range(64), size=64, value_range=(-128, 127), steps=steps) for steps in (0, 40)
    )
    cut = keras.Model(base.input, base.get_layer(name).output)
    before, after = (cut.predict(x, batch_size=16, verbose=0).mean(axis=(1, 2))[:, :64] for x in (start, patterns))
    return request.param, before[0], after


@pytest.mark.full
def test_60_of_64_filters_of_vgg16_respond_five_times_as_much(responses: tuple[int, np.ndarray, np.ndarray]) -> None:
    """To their patterns as to the start; also those that are dead on it."""
    _, before, after = responses
    own = after.diagonal()
    assert np.sum((own > 0) & (own >= 5 * before)) >= 60


@pytest.mark.full
def test_50_of_64_filters_of_vgg16_respond_to_their_own_patterns_most(
    responses: tuple[int, np.ndarray, np.ndarray],
) -> None:
    """In block 1 some 40, and others nearly most: many are nearly the same detector of an edge or a colour."""
    block, _, after = responses
    own, best = after.diagonal(), after.max(axis=0)
    assert np.sum((own > 0) & (own >= (0.8 if block == 1 else 1) * best)) >= 50
