"""The random affine transform against Keras's own, and what must hold of it with no oracle at all.

How far OpenCV may be from exact bilinear interpolation. A picture interpolated bilinearly changes by at most its range
R (255 here) for each pixel that the sampling point moves along an axis: a point that is off by e pixels along both axes
makes a value that is off by at most 2 e R.
- OpenCV 4 sums two coordinates rounded to 1/1024 pixel and rounds the sum to 1/32: e <= 1/1024 + 1/64.
- OpenCV 5 computes the point in float32, of unit roundoff u = 2^-24: three coefficients are rounded, then two products
  and two sums, all of them below 8 sides of the picture for the parameters drawn here (coefficients below 4, hence
  offsets below 4 sides): e <= 7 u 8 side < 2^-18 side. The interpolation itself adds at most 8 roundings of R.
An integer picture is rounded at the end, which adds one half.

Two of Keras's habits are not what its documentation says, and are not followed:
- since 2.2.5 it swaps the axes of the map, so that height_shift_range moves sideways, shear and zoom act on the other
  axis, and a picture that is not square turns about a point that is not its centre (keras-team/keras issue 17398).
  The oracle is Keras on the transposed square picture; pictures that are not square are first padded to squares.
- SciPy's "wrap" repeats with a period of one pixel less than the picture, and its "constant" drops to black at once
  beyond the last pixel's centre. SciPy's "grid-wrap" and "grid-constant" are what Keras's documentation draws.
"""

import re
from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from scipy import stats

from convspec.data.augmentation import DTYPES, FILL_MODES, Augmentation, warp

pytestmark = pytest.mark.filterwarnings("ignore:.*scipy.ndimage.interpolation.*:DeprecationWarning")

STILL = {"theta": 0.0, "tx": 0.0, "ty": 0.0, "shear": 0.0, "zx": 1.0, "zy": 1.0, "flip_horizontal": 0.0}
SCIPY_MODES = {"nearest": "nearest", "reflect": "reflect", "wrap": "grid-wrap", "constant": "grid-constant"}
NUMPY_PADS = {"nearest": "edge", "reflect": "symmetric", "wrap": "wrap", "constant": "constant"}
CHAPTER = Augmentation(40, 0.2, 0.2, 0.2, 0.2, True)  # listing 5.11
RANGES = [field.name for field in fields(Augmentation) if field.name.endswith("_range")]

each_fill_mode = pytest.mark.parametrize("fill_mode", FILL_MODES)
each_dtype = pytest.mark.parametrize("dtype", [np.uint8, np.float32])
each_depth = pytest.mark.parametrize("channels", [1, 3])

# Shifts are fractions of the side here.
PARAMETERS = st.fixed_dictionaries(
    {
        "theta": st.floats(-180, 180),
        "tx": st.floats(-0.5, 0.5),
        "ty": st.floats(-0.5, 0.5),
        "shear": st.floats(-40, 40),
        "zx": st.floats(0.4, 1.6),
        "zy": st.floats(0.4, 1.6),
        "flip_horizontal": st.sampled_from([0.0, 1.0]),
    }
)


def picture(height: int, width: int, channels: int = 3, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    """Noise, where every pixel differs from its neighbours, from 0 to 255."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(dtype)


def in_pixels(parameters: dict[str, float], side: int) -> dict[str, float]:
    return parameters | {"tx": parameters["tx"] * side, "ty": parameters["ty"] * side}


def tolerance(side: int, dtype: type = np.float32) -> float:
    off = 1 / 1024 + 1 / 64 if int(cv2.__version__.split(".")[0]) < 5 else side * 2.0**-18
    return 255 * (2 * off + 8 * 2.0**-24) + (0.5 if dtype is np.uint8 else 0)


def by_keras(square: np.ndarray, parameters: dict[str, float], scipy_mode: str) -> np.ndarray:
    assert square.shape[0] == square.shape[1], "Keras turns other pictures about a point that is not their centre"
    parameters = dict(parameters)
    parameters["flip_vertical"] = parameters.pop("flip_horizontal")  # of the transposed picture
    generator = ImageDataGenerator(fill_mode=scipy_mode, data_format="channels_last")
    return generator.apply_transform(square.swapaxes(0, 1).astype(np.float64), parameters).swapaxes(0, 1)


@each_fill_mode
@given(
    parameters=PARAMETERS,
    side=st.integers(2, 40),
    channels=st.sampled_from([1, 3]),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_a_square_picture_comes_out_as_from_keras(
    fill_mode: str, parameters: dict[str, float], side: int, channels: int, dtype: type
) -> None:
    image, parameters = picture(side, side, channels, dtype), in_pixels(parameters, side)
    expected = by_keras(image, parameters, SCIPY_MODES[fill_mode])
    np.testing.assert_allclose(warp(image, parameters, fill_mode), expected, rtol=0, atol=tolerance(side, dtype))


@each_fill_mode
@given(parameters=PARAMETERS, height=st.integers(2, 12), wider=st.integers(-5, 5))
def test_another_picture_comes_out_as_its_padded_square_from_keras(
    fill_mode: str, parameters: dict[str, float], height: int, wider: int
) -> None:
    width = max(height + 2 * wider, height % 2 + 2)  # of the same parity, so that both centres can meet
    image, longest = picture(height, width), max(height, width)
    parameters = in_pixels(parameters, longest)
    margins = [(6 * longest + longest % 2 - size) // 2 for size in (height, width)]
    pads = [(margin, margin) for margin in margins] + [(0, 0)]
    square = np.pad(image, pads, mode=NUMPY_PADS[fill_mode])  # type: ignore[call-overload]
    rows, columns = (slice(margin, -margin) for margin in margins)
    expected = by_keras(square, parameters, "nearest")[rows, columns]
    np.testing.assert_allclose(warp(image, parameters, fill_mode), expected, rtol=0, atol=tolerance(len(square)))


def test_keras_itself_shifts_sideways_for_height_shift_range() -> None:
    image = picture(6, 6)
    shifted = ImageDataGenerator().apply_transform(image, {"tx": 2.0})
    np.testing.assert_array_equal(shifted[:, :4], image[:, 2:], "then the oracle need not be transposed any more")


def test_wrap_has_the_period_of_the_picture_and_keras_one_pixel_less() -> None:
    image = picture(6, 6)
    np.testing.assert_array_equal(warp(image, STILL | {"tx": 2.0}, "wrap"), np.roll(image, -2, axis=0))
    keras = by_keras(image, STILL | {"tx": 2.0}, "wrap")
    np.testing.assert_array_equal(keras, image[[2, 3, 4, 5, 1, 2]], "then plain 'wrap' can be the oracle")


def test_constant_fades_to_black_over_one_pixel_where_keras_drops_at_once() -> None:
    white = np.full((4, 4, 1), 200, np.float32)
    ours = warp(white, STILL | {"tx": 0.5}, "constant")[:, 0, 0]
    keras = by_keras(white, STILL | {"tx": 0.5}, "constant")[:, 0, 0]
    assert (ours.tolist(), keras.tolist()) == ([200, 200, 200, 100], [200, 200, 200, 0])


@each_fill_mode
@given(height=st.integers(1, 60), width=st.integers(1, 60), flip=st.booleans(), dtype=st.sampled_from([np.uint8, "f4"]))
def test_zero_ranges_give_the_picture_itself_or_its_exact_mirror(
    fill_mode: str, height: int, width: int, flip: bool, dtype: type
) -> None:
    image = picture(height, width, 3, dtype)
    seen = {
        Augmentation(horizontal_flip=flip, fill_mode=fill_mode)(image, np.random.default_rng(seed)).tobytes()
        for seed in range(20)
    }
    views = {image.tobytes(), image[:, ::-1].tobytes()} if flip else {image.tobytes()}
    assert seen <= views, "only the picture itself or its mirror from left to right"
    assert seen == views, "20 draws; that all flip the same way has probability 2^-19"


@each_fill_mode
@each_dtype
@given(down=st.integers(-9, 9), right=st.integers(-9, 9), height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_shift_by_whole_pixels_moves_them_exactly(
    fill_mode: str, dtype: type, down: int, right: int, height: int, width: int
) -> None:
    image = picture(height, width, 3, dtype)
    padded = np.pad(image, [(9, 9), (9, 9), (0, 0)], mode=NUMPY_PADS[fill_mode])  # type: ignore[call-overload]
    expected = padded[9 + down : 9 + down + height, 9 + right : 9 + right + width]
    shifted = warp(image, STILL | {"tx": float(down), "ty": float(right)}, fill_mode)
    np.testing.assert_array_equal(shifted, expected)


def sampled(parameters: dict[str, float], height: int, width: int) -> np.ndarray:
    """Where each output pixel was sampled, (height, width, 2), from the centre: ramps interpolate to coordinates."""
    ramps = np.moveaxis(np.indices((height, width)), 0, -1).astype(np.float32)
    centre = [(height - 1) / 2, (width - 1) / 2]
    return np.stack([warp(ramps[..., axis, None], parameters)[..., 0] for axis in (0, 1)], axis=-1) - centre


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"zx": 0.5}, [[0.5, 0], [0, 1]]),
        ({"zy": 0.5}, [[1, 0], [0, 0.5]]),
        ({"theta": 30.0}, [[0.75**0.5, -0.5], [0.5, 0.75**0.5]]),
        ({"shear": 30.0}, [[1, -0.5], [0, 0.75**0.5]]),
        ({"theta": 90.0, "zx": 0.5}, [[0, -1], [0.5, 0]]),
    ],
)
def test_the_map_is_that_of_the_affine_matrix_about_the_centre(
    change: dict[str, float], expected: list[list[float]]
) -> None:
    height, width = 20, 31
    points = np.moveaxis(np.indices((height, width)), 0, -1) - [(height - 1) / 2, (width - 1) / 2]
    found, true = sampled(STILL | change, height, width), points @ np.transpose(expected)
    inside = (np.abs(true) <= [(height - 1) / 2, (width - 1) / 2]).all(axis=-1)
    assert inside.mean() > 0.3, "most of what is compared must not be the filled border"
    # A ramp changes by one a pixel along one axis only.
    np.testing.assert_allclose(found[inside], true[inside], rtol=0, atol=tolerance(width) / 255)


@pytest.fixture(scope="module")
def draws() -> dict[str, np.ndarray]:
    """The chapter's transform drawn 4,000 times for pictures 100 high and 50 wide."""
    rng = np.random.default_rng(5)
    drawn = [CHAPTER.draw(rng, 100, 50) for _ in range(4000)]
    return {name: np.array([parameters[name] for parameters in drawn]) for name in STILL}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("theta", -40, 40), ("tx", -20, 20), ("ty", -10, 10), ("shear", -0.2, 0.2), ("zx", 0.8, 1.2), ("zy", 0.8, 1.2)],
)
def test_each_parameter_is_uniform_on_its_range(
    draws: dict[str, np.ndarray], name: str, low: float, high: float
) -> None:
    assert low <= draws[name].min() <= draws[name].max() <= high
    p = stats.kstest(draws[name], stats.uniform(low, high - low).cdf).pvalue
    assert p > 0.001, f"{name} is not uniform from {low} to {high}: Kolmogorov-Smirnov p = {p:.2g} (fixed seed)"


def test_the_parameters_are_drawn_independently(draws: dict[str, np.ndarray]) -> None:
    correlations = np.corrcoef(list(draws.values())) - np.eye(len(draws))
    assert np.abs(correlations).max() < 4 / 4000**0.5, "four standard deviations of a correlation of 4,000 pairs"


@each_dtype
@each_depth
@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 99))
def test_dtype_and_shape_are_kept_and_the_picture_is_left_as_it_was(
    dtype: type, channels: int, height: int, width: int, seed: int
) -> None:
    image = picture(height, width, channels, dtype)
    before = image.copy()
    view = CHAPTER(image, np.random.default_rng(seed))
    assert (view.dtype, view.shape) == (image.dtype, image.shape)
    assert not np.shares_memory(view, image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, (0.8, 1.2), "40"])
@pytest.mark.parametrize("name", RANGES)
def test_a_range_that_is_negative_or_no_number_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be a number from 0, got {re.escape(str(value))}$"):
        Augmentation(**{name: value})


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_that_is_named_is_kept(dtype: np.dtype) -> None:
    image = picture(6, 6, 3).astype(dtype)
    shifted = warp(image, STILL | {"tx": 2.0})
    assert shifted.dtype == dtype
    np.testing.assert_array_equal(shifted[:4], image[2:], "up")


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "float16", "bool"])
def test_a_picture_of_another_dtype_is_refused_with_those_taken(dtype: str) -> None:
    message = f"^image must be one of uint8, uint16, int16, float32, float64, got {dtype}$"
    with pytest.raises(ValueError, match=message):
        CHAPTER(picture(6, 6).astype(dtype), np.random.default_rng(0))


@pytest.mark.parametrize("zoom", [1, 1.5])
def test_a_zoom_of_one_or_more_which_could_vanish_or_mirror_is_refused(zoom: float) -> None:
    with pytest.raises(ValueError, match=f"^zoom_range must be below 1, got {zoom}$"):
        Augmentation(zoom_range=zoom)


def test_an_unknown_fill_mode_is_refused_with_the_list_of_modes() -> None:
    with pytest.raises(ValueError, match=r"^fill_mode must be one of nearest, reflect, wrap, constant, got 'mirror'$"):
        Augmentation(fill_mode="mirror")


def keras_layers(fill_mode: str = "nearest", tangent: float = 0.0035) -> list[layers.Layer]:
    """Listing 5.11 in preprocessing layers, as the table in convspec.data.augmentation has it."""
    return [
        layers.RandomRotation(40 / 360, fill_mode=fill_mode, seed=1),
        layers.RandomTranslation(0.2, 0.2, fill_mode=fill_mode, seed=2),
        layers.RandomShear(y_factor=tangent, fill_mode=fill_mode, seed=3),
        layers.RandomZoom(0.2, 0.2, fill_mode=fill_mode, seed=4),
        layers.RandomFlip("horizontal", seed=5),
    ]


def drawn_by(layer: layers.Layer, images: np.ndarray) -> tuple[dict, dict[str, np.ndarray]]:
    """What the layer draws for each of the images, in its own terms and as parameters of the same `warp`."""
    own = layer.get_random_transformation(images, training=True)
    drawn = {name: np.asarray(values, np.float64) for name, values in own.items() if name != "input_shape"}
    if isinstance(layer, layers.RandomRotation):
        return own, {"theta": -drawn["angle"]}
    if isinstance(layer, layers.RandomTranslation):
        return own, {"tx": -drawn["translations"][:, 1], "ty": -drawn["translations"][:, 0]}
    if isinstance(layer, layers.RandomShear):
        tangent = drawn["shear_factor"][:, 1]
        from_corner = tangent * (images.shape[2] - 1) / 2
        narrowed = 1 / np.cos(np.arctan(tangent))
        return own, {"shear": -np.rad2deg(np.arctan(tangent)), "zy": narrowed, "tx": from_corner}
    if isinstance(layer, layers.RandomZoom):
        return own, {"zx": drawn["height_zoom"][:, 0], "zy": drawn["width_zoom"][:, 0]}
    return own, {"flip_horizontal": drawn["flips"].ravel()}


@pytest.mark.parametrize("fill_mode", ["nearest", "reflect", "constant"])
@pytest.mark.parametrize("place", range(5), ids=[type(layer).__name__ for layer in keras_layers()])
def test_each_keras_layer_is_one_warp_of_its_parameters(place: int, fill_mode: str) -> None:
    layer = keras_layers(fill_mode, tangent=0.3)[place]
    images = np.stack([picture(20, 31, seed=seed) for seed in range(20)])
    own, drawn = drawn_by(layer, images)
    each = [STILL | dict(zip(drawn, map(float, values), strict=True)) for values in zip(*drawn.values(), strict=True)]
    ours = np.stack([warp(image, parameters, fill_mode) for image, parameters in zip(images, each, strict=True)])
    by_layer = ops.convert_to_numpy(layer.transform_images(images, own))
    np.testing.assert_allclose(by_layer, ours, 0, 2 * tolerance(31), err_msg="both in float32, or ours in 1/32")
    assert np.abs(by_layer - images).max() > 20, "something must have been done"


@pytest.mark.parametrize("name", STILL)
def test_the_keras_layers_of_the_table_draw_what_the_chapter_draws(draws: dict[str, np.ndarray], name: str) -> None:
    place = ["theta", "tx ty", "shear", "zx zy", "flip_horizontal"]
    layer = next(layer for layer, names in zip(keras_layers(), place, strict=True) if name in names.split())
    drawn = drawn_by(layer, np.zeros((4000, 100, 50, 1), np.uint8))[1][name]
    p = stats.ks_2samp(drawn, draws[name]).pvalue
    assert p > 0.001, f"{name} from {type(layer).__name__} is not drawn as here: p = {p:.2g} (fixed seeds)"
