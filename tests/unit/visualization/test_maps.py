"""Activations, how they and heatmaps are drawn, and what no map can be made of."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib import colormaps

from convspec import BadInput, models
from convspec.visualization import activations, class_activation_map, superimpose
from convspec.visualization.maps import channel_tiles, class_activation_maps, dead_share, occlusion_map, tile, viridis


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.random((48, 48, 3)).astype(np.float32)


def coloured(shades: np.ndarray) -> np.ndarray:
    """Matplotlib's own viridis; OpenCV's, which the package takes, may round a level otherwise."""
    return colormaps["viridis"](shades, bytes=True)[..., :3]


# Activations (listings 5.25 to 5.31)


def test_layers_of_a_nested_base_have_their_own_names(picture: np.ndarray) -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    nested = keras.Sequential([keras.Input((48, 48, 3)), base, layers.Flatten()])
    outer, inner = activations(nested, picture), activations(base, picture)
    assert [name for name in outer if name in inner] == [layer.name for layer in base.layers[1:]]
    np.testing.assert_allclose(outer["block4_conv2"], inner["block4_conv2"], atol=1e-6)


def test_dropout_and_augmentation_are_off(picture: np.ndarray) -> None:
    stack = [layers.RandomTranslation(0.5, 0.5), layers.RandomFlip(), layers.Dropout(0.9)]
    outputs = activations(keras.Sequential([keras.Input((48, 48, 3)), *stack]), picture)
    assert len(outputs) == 3
    for output in outputs.values():
        np.testing.assert_array_equal(output, picture)


def test_a_layer_that_is_called_twice_has_two_activations(picture: np.ndarray) -> None:
    inputs = keras.Input((48, 48, 3))
    layer = layers.ReLU(negative_slope=0.5, name="half")
    outputs = activations(keras.Model(inputs, layer(layer(inputs))), picture - 1)
    assert list(outputs) == ["half", "half:2"]
    np.testing.assert_allclose(outputs["half:2"], (picture - 1) / 4, rtol=1e-6)


def test_one_number_for_the_whole_batch_is_no_activation(picture: np.ndarray) -> None:
    inputs = keras.Input(picture.shape)
    model = keras.Model(inputs, layers.Flatten()(inputs - keras.ops.mean(inputs)))
    assert [output.shape for output in activations(model, picture).values()] == [(48, 48, 3), (6912,)]


def test_dead_channels_are_those_that_are_0_everywhere() -> None:
    maps = np.zeros((3, 3, 8))
    maps[1, 2, :6] = 1
    maps[..., 5] = -1
    outputs = {"a": maps, "b": np.ones((2, 2, 4)), "c": np.zeros((2, 2, 4)), "flatten": np.zeros(9)}
    assert dead_share(outputs) == {"a": 0.25, "b": 0, "c": 1}


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 40])
def test_every_channel_has_a_place_sixteen_a_row(channels: int, rng: np.random.Generator) -> None:
    """Listing 5.31 leaves out what is left over of a multiple of 16."""
    maps = rng.random((4, 5, channels))
    grid = channel_tiles(maps)
    assert grid.shape == (4 * -(-channels // 16), 5 * 16, 3)
    for channel in range(channels):
        top, left = channel // 16 * 4, channel % 16 * 5
        one = maps[..., channel]
        expected = coloured(np.clip((one - one.mean()) / one.std() * 64 + 128, 0, 255).astype("uint8"))
        np.testing.assert_allclose(grid[top : top + 4, left : left + 5], expected, atol=1)
    assert (grid[-4:, (channels - 1) % 16 * 5 + 5 :] == 255).all(), "where no channel is left, the grid is white"


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_dead_channels_are_black_and_constant_ones_of_the_middle(value: float) -> None:
    """Listing 5.31 divides by a standard deviation of zero."""
    maps = np.stack([np.full((7, 7), value), np.eye(7)], axis=-1).astype(np.float32)
    expected = coloured(np.full((7, 7), 128, np.uint8)) if value else np.zeros((7, 7, 3))
    np.testing.assert_allclose(channel_tiles(maps)[:, :7], expected, atol=1)


@pytest.mark.parametrize(("count", "places"), [(2, [[0], [1], [9]]), (7, [[0, 3, 6], [1, 4, 9], [2, 5, 9]])])
def test_tiles_down_the_columns_fill_one_after_the_other(count: int, places: list[list[int]]) -> None:
    grid = tile(np.arange(count, dtype=np.uint8)[:, None, None], 3, fill=9, down=True)
    assert grid.tolist() == places


def test_a_grey_picture_gets_colours_from_the_map() -> None:
    black = np.zeros((8, 8, 3))
    np.testing.assert_array_equal(superimpose(black, np.eye(8), 2), superimpose(black, np.eye(8), 2.0))
    over = superimpose(np.full((8, 8, 1), 100), np.ones((2, 2)))
    assert over.shape == (8, 8, 3)
    assert over[0, 0].tolist() == [151, 100, 100]


# What cannot work


MODEL = models.small_convnet((46, 46, 3), filters=(2, 2, 2, 2))
IMAGE = np.full((46, 46, 3), 0.5)
FLAT = keras.Sequential([keras.Input((46, 46, 3)), layers.Flatten()])
IN_TWO = keras.Model(MODEL.inputs, [MODEL.outputs[0], MODEL.layers[0].output])


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: activations(MODEL, IMAGE[:40]), r"image must have .* \(46, 46, 3\), got \(40, 46, 3\): resize it"),
        (lambda: activations(MODEL, IMAGE[..., 0]), r"image must have .*got \(46, 46\): give it 3 channels"),
        (lambda: activations(MODEL, np.stack([IMAGE] * 2)), r"image must have .*got \(2, 46, 46, 3\)"),
        (lambda: activations(MODEL, "cat.jpg"), r"image must be an array, .* could not convert .* 'cat.jpg'"),  # type: ignore[arg-type]
        (lambda: activations(MODEL, [IMAGE, IMAGE[:9]]), r"image must be an array, or several of one shape"),  # type: ignore[arg-type]
        (lambda: activations(MODEL, IMAGE * np.nan), r"image must be finite, got 6348 of 6348 NaN"),
        (lambda: activations(models.dense_baseline(), IMAGE), r"dense_baseline does not"),
        (lambda: activations(keras.Sequential([layers.Flatten()]), IMAGE), r"model must be .*, built"),
        (lambda: class_activation_map(MODEL, IMAGE, 2), r"class_index must be from 0 to 1, got 2"),
        (lambda: class_activation_map(MODEL, IMAGE, -1), r"class_index must be from 0 to 1, got -1"),
        (lambda: class_activation_map(MODEL, IMAGE, "cat"), r"class_index must be from 0 to 1, got 'cat'"),  # type: ignore[arg-type]
        (lambda: class_activation_map(MODEL, IMAGE, of="odds"), r"of must be one of score, probability, got 'odds'"),  # type: ignore[arg-type]
        (lambda: class_activation_map(MODEL, IMAGE, 0, "conv9"), r"no layer 'conv9' with maps; choose from conv2d"),
        (lambda: class_activation_map(MODEL, IMAGE, 0, "flatten"), r"no layer 'flatten' with maps"),
        (lambda: class_activation_map(IN_TWO, IMAGE), r"one output"),
        (lambda: class_activation_map(FLAT, IMAGE), r"no convolution with maps, nor any other layer$"),
        (lambda: class_activation_map(models.conv_base("mini", None, (46, 46, 3)), IMAGE), r"\(2, 2, 96\): add a head"),
        (lambda: class_activation_maps(MODEL, np.stack([IMAGE] * 3), [0, 1]), r"one for each of 3 images, got 2"),
        (lambda: class_activation_maps(MODEL, np.stack([IMAGE] * 2), [0, 2]), r"from 0 to 1, got \[0, 2\]"),
        (lambda: class_activation_maps(MODEL, np.zeros((0, 46, 46, 3))), r"image must have"),
        (lambda: occlusion_map(MODEL, IMAGE, patch=47), r"patch must be from 1 to 46.* got 47"),
        (lambda: channel_tiles(np.zeros((3, 3))), r"maps must be \(height, width, channels\), got \(3, 3\)"),
        (lambda: channel_tiles(np.full((3, 3, 1), np.inf)), r"maps must be finite, got 9 of 9"),
        (lambda: viridis(np.zeros((3, 3, 1))), r"channel must be \(height, width\), got \(3, 3, 1\): take one"),
        (lambda: viridis(np.full((3, 1), np.nan)), r"channel must be finite, got 3 of 3"),
        (lambda: tile([], 8), r"tile takes pictures"),
        (lambda: tile([np.zeros((3, 3)), np.zeros((2, 3))]), r"of one shape, got \(2, 3\), \(3, 3\)"),
        (lambda: tile(np.zeros((4, 3, 3)), 0), r"tile takes pictures.*columns 0"),
        (lambda: superimpose(np.zeros((4, 4)), np.zeros((2, 2))), r"image must be \(height, width, 3\)"),
        (lambda: superimpose(np.full((4, 4, 3), 256), np.zeros((2, 2))), r"values from 0 to 255, got 256 to 256"),
        (lambda: superimpose(np.zeros((4, 4, 3)), np.full((2, 2), 2)), r"heatmap must be .*from 0 to 1"),
        (
            lambda: superimpose(np.zeros((4, 4, 3)), np.zeros((2, 2)), -1),
            "intensity must be a number from 0 up, got -1",
        ),
        (lambda: superimpose(np.zeros((4, 4, 3)), np.full((2, 2), np.nan)), r"heatmap must be .*from 0 to 1"),
    ],
)
def test_what_cannot_work_is_refused_with_value_and_remedy(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        attempt()
