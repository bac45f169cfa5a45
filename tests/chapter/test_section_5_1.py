"""Section 5.1, introduction to convnets, claim by claim in reading order; accuracies are in test_recorded_runs.py."""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
from builders import assert_builds_as_listed, assert_trains_as_listed
from claims import Evidence, claim
from keras import layers

from convspec import models, reference, training
from convspec.arithmetic import (
    Window,
    conv_output_size,
    dense_parameters,
    pool_output_size,
    receptive_field,
    receptive_fields,
    same_padding,
)
from convspec.data.batches import Batches, rescale, stream
from convspec.data.datasets import Dataset, Split
from convspec.ladder.rungs import find_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")  # as the listings do

DIGIT = np.random.default_rng(51).random((28, 28, 1)).astype(np.float32)
to_numpy = keras.ops.convert_to_numpy


@pytest.fixture(scope="module")
def convnet() -> keras.Model:
    keras.utils.set_random_seed(51)
    return models.mnist_convnet()


@pytest.fixture(scope="module")
def noise_digits() -> Dataset:
    """Return 130 and 40 pictures of noise with the labels of digits."""
    rng = np.random.default_rng(51)
    train, test = (
        Split(rng.integers(0, 256, (n, 28, 28, 1), np.uint8), np.arange(n) % 10, tuple(map(str, range(n))))
        for n in (130, 40)
    )
    return Dataset("noise", tuple("0123456789"), train, None, test)


def listing_5_2() -> keras.Model:
    model = keras.Sequential()
    model.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.add(layers.Flatten())
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def chapter_2() -> keras.Model:
    model = keras.Sequential()
    model.add(layers.Dense(512, activation="relu", input_shape=(28 * 28,)))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def without_pooling() -> keras.Model:
    model = keras.Sequential()
    model.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    return model


def outputs(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(layer.output.shape[1:]) for layer in model.layers]


def windows(model: keras.Model) -> list[Window]:
    """Return the windows of a model's convolution and pooling layers."""
    kinds = {layers.Conv2D: "kernel_size", layers.MaxPooling2D: "pool_size"}
    found = [(layer, kinds.get(type(layer))) for layer in model.layers]
    return [Window(getattr(layer, size)[0], layer.strides[0], layer.padding) for layer, size in found if size]


def changed(layer: keras.Layer, row: int, column: int) -> np.ndarray:
    """Where a layer's output for the digit changes when one pixel of it does."""
    touched = DIGIT.copy()
    touched[row, column] += 1
    before, after = (to_numpy(layer(picture[None]))[0] for picture in (DIGIT, touched))
    return before != after


@claim(1, "5.1", "a stack of Conv2D and MaxPooling2D layers", "holds", source="listing 5.1")
def test_the_convnet_is_that_of_listings_5_1_and_5_2_in_every_setting() -> None:
    assert_builds_as_listed(models.mnist_convnet, listing_5_2)


def test_the_dense_baseline_is_chapter_2s_network_in_every_setting() -> None:
    assert_builds_as_listed(models.dense_baseline, chapter_2)


@claim(2, "5.1", "input tensors of shape (image_height, image_width, image_channels)", "holds")
def test_a_convnet_takes_tensors_of_image_height_width_and_channels(convnet: keras.Model) -> None:
    """Listing 5.1: "(28, 28, 1), which is the format of MNIST images", not including the batch dimension."""
    assert convnet.input_shape == (None, 28, 28, 1)
    assert models.mnist_convnet((20, 28, 3)).input_shape == (None, 20, 28, 3), "the height comes first"


@claim(3, "5.1", "Total params: 55,744", "holds", source="listing 5.1")
@claim(8, "5.1", "Total params: 93,322", "holds", source="listing 5.2")
def test_the_convnet_has_93322_parameters_55744_of_them_before_flatten(convnet: keras.Model) -> None:
    counts = [layer.count_params() for layer in convnet.layers]
    assert counts == [320, 0, 18_496, 0, 36_928, 0, 36_928, 650]
    assert (sum(counts[:5]), sum(counts)) == (55_744, 93_322)


@claim(4, "5.1", "a 3D tensor of shape (height, width, channels)", "holds")
@claim(5, "5.1", "tend to shrink as you go deeper", "holds")
def test_every_layers_output_is_3d_and_shrinks_as_you_go_deeper(convnet: keras.Model) -> None:
    assert outputs(convnet)[:5] == [(26, 26, 32), (13, 13, 32), (11, 11, 64), (5, 5, 64), (3, 3, 64)]


@claim(7, "5.1", "flattened into vectors of shape (576,)", "holds", source="listing 5.2")
def test_the_head_flattens_3_3_64_to_576_and_ends_in_10_way_softmax(convnet: keras.Model) -> None:
    assert outputs(convnet)[4:] == [(3, 3, 64), (576,), (64,), (10,)]
    features = to_numpy(keras.Model(convnet.inputs[0], convnet.layers[-2].output)(DIGIT[None]))
    expected = reference.softmax(reference.dense(features, *convnet.layers[-1].get_weights()))
    np.testing.assert_allclose(to_numpy(convnet(DIGIT[None])), expected, rtol=1e-5)


@claim(9, "5.1", "optimizer='rmsprop', ... epochs=5, batch_size=64", "holds", source="listing 5.3")
def test_rmsprop_by_name_is_kerass_own_rate_of_the_two_digit_rungs() -> None:
    named = keras.optimizers.get("rmsprop")
    for rung, batch_size in (("dense_baseline", 128), ("mnist_convnet", 64)):
        recipe, model = find_recipe(rung, "full"), models.dense_baseline()
        training.compile_model(model, recipe.learning_rate, recipe.ema_momentum)
        assert type(model.optimizer) is type(named)
        assert model.optimizer.get_config() | {"name": named.name} == named.get_config()
        assert (recipe.epochs, recipe.batch_size, recipe.steps, recipe.dataset) == (5, batch_size, None, "mnist")


@claim(9, "5.1", "optimizer='rmsprop', ... epochs=5, batch_size=64", "holds", source="listing 5.3")
@pytest.mark.parametrize(("rung", "network", "batch_size"), [
    ("dense_baseline", chapter_2, 128), ("mnist_convnet", listing_5_2, 64)
])  # fmt: skip
def test_a_rung_of_digits_trains_as_its_listing_by_keras_itself(
    rung: str, network: type, batch_size: int, noise_digits: Dataset, tmp_path: Path
) -> None:
    """The listing has labels as categories, for categorical crossentropy; the package leaves them as numbers."""

    def listing() -> keras.Model:
        model = network()
        model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
        return model

    assert_trains_as_listed(rung, noise_digits, listing, batch_size, tmp_path)


def test_a_pass_over_mnist_takes_938_batches_the_last_of_which_is_whole() -> None:
    """Listing 5.3's last batch has 32 digits; here it has 64, of which the other 32 begin the next pass."""
    labels = np.arange(60_000)
    shown = stream(Batches(np.zeros((60_000, 1), np.uint8), labels, 64, rescale), 0)
    assert find_recipe("mnist_convnet", "full").steps is None
    seen = np.concatenate([next(shown)[1] for _ in range(-(-60_000 // 64))])
    assert len(seen) == 938 * 64 == 60_032
    assert len(set(seen.tolist())) == 60_000


@claim(13, "5.1.1", "Dense layers learn global patterns", "holds", source="figure 5.1")
def test_dense_layers_see_all_pixels_and_convolution_layers_a_small_window(convnet: keras.Model) -> None:
    """Local ones are of 3x3."""
    where = changed(convnet.layers[0], 10, 20).any(axis=-1)
    assert {(int(i), int(j)) for i, j in np.argwhere(where)} == set(itertools.product((8, 9, 10), (18, 19, 20)))
    keras.utils.set_random_seed(51)  # a weight may be so near 0 that its output stays as it is
    dense = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(50)])
    assert changed(dense, 10, 20).all()


@claim(14, "5.1.1", "The patterns they learn are translation invariant", "qualified")
def test_a_convolution_answers_a_pattern_anywhere_with_the_same_value(rng: np.random.Generator) -> None:
    """More exactly the response moves with the pattern: what is invariant is its value, not its place."""
    pattern, kernel = rng.random((3, 3, 1)), rng.normal(size=(3, 3, 1, 4))
    low, high = np.zeros((14, 14, 1)), np.zeros((14, 14, 1))
    low[8:11, 8:11], high[2:5, 3:6] = pattern, pattern
    responses = [reference.conv2d(picture, kernel) for picture in (low, high)]
    np.testing.assert_allclose(responses[0][8, 8], responses[1][2, 3])
    np.testing.assert_allclose(responses[0].max(axis=(0, 1)), responses[1].max(axis=(0, 1)))
    assert not np.allclose(responses[0], responses[1])


@claim(14, "5.1.1", "The patterns they learn are translation invariant", "qualified")
def test_the_whole_convnet_is_not_translation_invariant(convnet: keras.Model) -> None:
    """Section 5.1.1 says so of "the patterns"; flattening and a shift that pooling doesn't divide end it."""
    first, second = (to_numpy(convnet(picture[None])) for picture in (DIGIT, np.roll(DIGIT, 1, axis=1)))
    assert not np.allclose(first, second, rtol=1e-3)


@claim(17, "5.1.1", "a second convolution layer will learn larger patterns", "qualified", source="figure 5.2")
def test_each_layer_sees_larger_windows_than_the_layers_before() -> None:
    """How large its patterns can be; what it learns is for claim 129. By arithmetic and in the model itself, where no
    weight is negative, so that relu hides nothing.
    """
    model, sizes = models.mnist_convnet(), [3, 4, 8, 10, 18]
    assert [field.size for field in receptive_fields(28, windows(model))] == sizes
    model.set_weights([np.full(weight.shape, len(weight.shape) > 1) for weight in model.weights])
    rows = np.zeros((28, 28, 28, 1), np.float32)  # each picture has another row of ones
    rows[range(28), range(28)] = 1
    for layer, size in zip(model.layers, sizes, strict=False):
        seen = to_numpy(keras.Model(model.inputs[0], layer.output)(rows)).any(axis=(2, 3))
        assert seen[:, seen.shape[1] // 2].sum() == size


@claim(19, "5.1.1", "two spatial axes ... as well as a depth axis", "holds")
def test_feature_maps_of_rgb_pictures_are_3_deep_and_of_digits_1(few_shapes: Dataset, noise_digits: Dataset) -> None:
    for dataset, build, depth in ((few_shapes, models.small_convnet, 3), (noise_digits, models.mnist_convnet, 1)):
        assert dataset.train.images.shape[-1] == build().layers[0].kernel.shape[-2] == depth


@claim(22, "5.1.1", "outputs a feature map of size (26, 26, 32)", "holds")
@claim(23, "5.1.1", "the 2D spatial map of the response of this filter", "holds", source="figure 5.3")
def test_each_output_channel_is_the_response_map_of_one_filter(rng: np.random.Generator) -> None:
    """`output[:, :, n]` is 26x26 and owes nothing to the other filters."""
    kernel = rng.normal(size=(3, 3, 1, 32))
    response = reference.conv2d(DIGIT, kernel)
    assert response.shape == (26, 26, 32)
    np.testing.assert_allclose(response[:, :, 7], reference.conv2d(DIGIT, kernel[..., 7:8])[:, :, 0])


@claim(6, "5.1", "controlled by the first argument passed to the Conv2D layers", "holds")
@claim(21, "5.1.1", "Its depth can be arbitrary", "holds")
@claim(24, "5.1.1", "Conv2D(output_depth, (window_height, window_width))", "holds")
def test_the_first_arguments_of_conv2d_are_depth_and_window_height_first(convnet: keras.Model) -> None:
    """Whatever the depth of the input. The chapter's are all 3x3, and start with a depth of 32, and end with 64."""
    for channels in (1, 3, 32):
        assert layers.Conv2D(7, (2, 5))(np.zeros((1, 9, 9, channels), np.float32)).shape == (1, 8, 5, 7)
    kernels = [layer.kernel.shape for layer in convnet.layers if isinstance(layer, layers.Conv2D)]
    assert kernels == [(3, 3, 1, 32), (3, 3, 32, 64), (3, 3, 64, 64)]


@claim(20, "5.1.1", "applies the same transformation to all of these patches", "holds")
@claim(25, "5.1.1", "tensor product with the same learned weight matrix", "holds", source="figure 5.4")
def test_every_3d_patch_becomes_a_vector_by_the_same_tensor_product(convnet: keras.Model) -> None:
    """On the second convolution of listing 5.1, whose patches are 32 deep: at each of 121 places the same sum."""
    kernel, bias = convnet.layers[2].get_weights()
    maps = np.random.default_rng(52).random((13, 13, 32)).astype(np.float32)
    output = to_numpy(convnet.layers[2](maps[None]))[0]
    patches = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), axis=(0, 1))
    vectors = np.einsum("ijckl,klcf->ijf", patches, kernel) + bias
    np.testing.assert_allclose(output, np.maximum(vectors, 0), atol=1e-5)


@claim(26, "5.1.1", "corresponds to the same location in the input feature map", "holds")
def test_the_outputs_lower_right_corner_is_that_of_the_input(convnet: keras.Model) -> None:
    where = changed(convnet.layers[0], 27, 27).any(axis=-1)
    assert np.argwhere(where).tolist() == [[25, 25]]


@claim(27, "5.1.1", "comes from the 3D patch input[i-1:i+1, j-1:j+1, :]", "refuted")
def test_the_patch_under_an_output_is_i_minus_1_to_i_plus_2_in_python(rng: np.random.Generator) -> None:
    """The text's slices leave out the last row and column; and they are centred for "same" only."""
    kernel = rng.normal(size=(3, 3, 1, 5))
    i, j = 10, 12
    assert DIGIT[i - 1 : i + 1, j - 1 : j + 1].shape == (2, 2, 1), "the text's slices don't make a 3x3 window"
    patch = {"same": DIGIT[i - 1 : i + 2, j - 1 : j + 2], "valid": DIGIT[i : i + 3, j : j + 3]}
    for padding, window in patch.items():
        np.testing.assert_allclose(
            reference.conv2d(DIGIT, kernel, padding=padding)[i, j], np.tensordot(window, kernel, axes=3)
        )


@claim(28, "5.1.1", "There are only 9 tiles around which you can center", "holds", source="figures 5.5 to 5.7")
@pytest.mark.parametrize(
    ("options", "side"), [({}, 3), ({"padding": "same"}, 5), ({"stride": 2}, 2)], ids=["5.5", "5.6", "5.7"]
)
def test_a_5x5_map_has_9_patches_of_3x3_with_padding_25_with_stride_2_four(options: dict, side: int) -> None:
    assert reference.conv2d(np.ones((5, 5, 1)), np.ones((3, 3, 1, 1)), **options).shape == (side, side, 1)
    assert conv_output_size(5, 3, **options) == side


@claim(28.5, "5.1.1", "an output with the same width and height", "qualified", source="figure 5.6")
def test_padding_of_a_row_a_side_for_3x3_two_for_5x5_keeps_the_size() -> None:
    """With stride 1 only."""
    assert [same_padding(5, window) for window in (3, 5)] == [(1, 1), (2, 2)]
    assert [conv_output_size(5, window, padding="same") for window in (3, 5)] == [5, 5]
    assert conv_output_size(5, 3, stride=2, padding="same") == 3


@claim(28.7, "5.1.1", 'The padding argument defaults to "valid"', "holds")
@claim(29, "5.1.1", "its stride, which defaults to 1", "holds")
def test_padding_defaults_to_valid_and_stride_to_1() -> None:
    """In Keras's layer and in the package's arithmetic."""
    layer = layers.Conv2D(1, (3, 3))
    assert (layer.padding, layer.strides) == ("valid", (1, 1))
    assert conv_output_size(28, 3) == conv_output_size(28, 3, 1, "valid")


@claim(29.5, "5.1.1", "the feature map are downsampled by a factor of 2", "holds", source="figure 5.7")
def test_stride_2_downsamples_by_2_in_addition_to_border_effects(rng: np.random.Generator) -> None:
    """Every second place of the unstrided convolution."""
    kernel = rng.normal(size=(3, 3, 1, 2))
    np.testing.assert_allclose(reference.conv2d(DIGIT, kernel, stride=2), reference.conv2d(DIGIT, kernel)[::2, ::2])


@claim(31, "5.1.2", "the feature maps is halved after every MaxPooling2D layer", "qualified")
def test_max_pooling_halves_26_to_13_but_an_odd_size_loses_its_last_row() -> None:
    """True of 26; listing 5.1's 11 becomes 5."""
    assert [pool_output_size(size, 2) for size in (26, 11)] == [13, 5]
    picture = np.zeros((11, 11, 1))
    picture[10] = 9
    assert reference.max_pool2d(picture).max() == 0, "what stands in row 11 is not seen"


@claim(32, "5.1.2", "transformed via a hardcoded max tensor operation", "holds")
@claim(33, "5.1.2", "usually done with 2 × 2 windows and stride 2", "holds")
def test_max_pooling_takes_the_max_of_each_channel_in_2x2_windows(rng: np.random.Generator) -> None:
    """Without a learned transformation; the convolutions have 3x3 windows and "no stride"."""
    pooling = models.mnist_convnet().layers[1]
    maps = rng.normal(size=(26, 26, 32)).astype(np.float32)
    pooled = to_numpy(pooling(maps[None]))[0]
    assert pooling.count_params() == 0
    np.testing.assert_array_equal(pooled, maps.reshape(13, 2, 13, 2, 32).max(axis=(1, 3)))
    for model in (models.mnist_convnet(), models.small_convnet()):
        assert set(windows(model)) == {Window(3, 1), Window(2, 2)}


@claim(34, "5.1.2", "keep fairly large feature maps all the way up", "holds")
def test_the_model_without_pooling_is_the_texts_with_22x22x64_outputs() -> None:
    assert_builds_as_listed(models.mnist_convnet_without_pooling, without_pooling)
    model = models.mnist_convnet_without_pooling()
    assert outputs(model) == [(26, 26, 32), (24, 24, 64), (22, 22, 64)]
    assert model.count_params() == 55_744


@claim(35, "5.1.2", "only contain information coming from 7 × 7 windows", "holds")
def test_without_pooling_the_third_layer_sees_7x7_windows_of_the_digit() -> None:
    model = models.mnist_convnet_without_pooling()
    assert receptive_field((window.kernel, window.stride) for window in windows(model)) == 7
    assert np.argwhere(changed(model, 14, 14).any(axis=(1, 2))).ravel().tolist() == list(range(8, 15))


@claim(35.5, "5.1.2", "information about the totality of the input", "qualified")
def test_with_pooling_one_last_feature_still_sees_18_rows_of_28(convnet: keras.Model) -> None:
    """The nine together see 26 of 28 rows."""
    last = receptive_fields(28, windows(convnet))[-1]
    assert last.size == 18
    assert (last.outputs - 1) * last.jump + last.size == 26, "and the last two rows reach no feature at all"


@claim(36, "5.1.2", "that layer would have 15.8 million parameters", "qualified")
@claim(38.5, "5.1.2", "to reduce the number of feature-map coefficients to process", "holds")
def test_without_pooling_a_dense_layer_of_512_has_15_8_million_parameters() -> None:
    """15,860,224, which is 15.9 million when rounded."""
    coefficients = int(np.prod(models.mnist_convnet_without_pooling().output_shape[1:]))
    assert coefficients == 22 * 22 * 64 == 30_976
    assert dense_parameters(coefficients, 512) == 15_860_224
    assert coefficients / models.mnist_convnet().layers[5].output.shape[-1] > 50, "576 with pooling"


@claim(40, "5.1.2", "miss or dilute feature-presence information", "holds")
def test_of_a_presence_strides_miss_three_in_four_and_averages_dilute_all(
    rng: np.random.Generator, evidence: Evidence
) -> None:
    """An unstrided convolution, then the maximum, the average or every second place (a 3x3 convolution of stride 2)."""
    pattern = rng.normal(size=(3, 3, 1))
    pattern -= pattern.mean()
    kernel, full = pattern[..., None], float((pattern**2).sum())  # the filter of the pattern, and its response to it
    strongest: dict[str, list[float]] = {"max": [], "average": [], "stride": []}
    for row, column in itertools.product(range(2), repeat=2):
        picture = np.zeros((12, 12, 1))
        picture[4 + row : 7 + row, 4 + column : 7 + column] = pattern
        dense = reference.conv2d(picture, kernel)
        strongest["max"].append(reference.max_pool2d(dense).max())
        strongest["average"].append(reference.average_pool2d(dense).max())
        strongest["stride"].append(reference.conv2d(picture, kernel, stride=2).max())
    share = {name: np.array(values) / full for name, values in strongest.items()}
    evidence("; ".join(f"{name} keeps {', '.join(f'{s:.2f}' for s in values)}" for name, values in share.items()))
    assert share["max"] == pytest.approx(1), "wherever the pattern lies"
    assert share["stride"][0] == pytest.approx(1)
    assert share["stride"][1:].max() < 0.9, "of four places where a pattern may lie a window is centred on one"
    assert share["average"].max() < 0.6
