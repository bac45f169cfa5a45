"""Section 5.1, introduction to convnets, claim by claim in reading order; accuracies are in test_recorded_runs.py."""

import itertools

import keras
import numpy as np
import pytest
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
from convspec.ladder.rungs import find_recipe

DIGIT = np.random.default_rng(51).random((28, 28, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def convnet() -> keras.Model:
    keras.utils.set_random_seed(51)
    return models.mnist_convnet()


def outputs(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(layer.output.shape[1:]) for layer in model.layers]


def changed(layer: keras.Layer, row: int, column: int) -> np.ndarray:
    """Where a layer's output for the digit changes when one pixel of it does."""
    touched = DIGIT.copy()
    touched[row, column] += 1
    before, after = (keras.ops.convert_to_numpy(layer(picture[None]))[0] for picture in (DIGIT, touched))
    return before != after


def test_a_convnet_takes_tensors_of_image_height_width_and_channels(convnet: keras.Model) -> None:
    """Listing 5.1: "(28, 28, 1), which is the format of MNIST images", not including the batch dimension."""
    assert convnet.input_shape == (None, 28, 28, 1)


def test_every_layers_output_is_3d_and_shrinks_as_you_go_deeper(convnet: keras.Model) -> None:
    """The summary after listing 5.1."""
    shapes = outputs(convnet)[:5]
    assert shapes == [(26, 26, 32), (13, 13, 32), (11, 11, 64), (5, 5, 64), (3, 3, 64)]


def test_the_number_of_channels_is_the_first_argument_of_the_conv2d_layers(convnet: keras.Model) -> None:
    """Section 5.1: "(32 or 64)"."""
    convolutions = [layer for layer in convnet.layers if isinstance(layer, layers.Conv2D)]
    assert (
        [layer.filters for layer in convolutions] == [layer.output.shape[-1] for layer in convolutions] == [32, 64, 64]
    )


def test_the_head_flattens_3_3_64_to_576_and_ends_in_10_way_softmax(convnet: keras.Model) -> None:
    """Listing 5.2."""
    assert outputs(convnet)[4:] == [(3, 3, 64), (576,), (64,), (10,)]
    probabilities = keras.ops.convert_to_numpy(convnet(DIGIT[None]))[0]
    assert probabilities.sum() == pytest.approx(1)
    assert (probabilities > 0).all()


def test_it_is_trained_for_5_epochs_in_batches_of_64() -> None:
    """Listing 5.3; "rmsprop" is at Keras's own rate, 1e-3."""
    recipe = find_recipe("mnist_convnet", "full")
    assert (recipe.epochs, recipe.batch_size, recipe.steps) == (5, 64, None)
    assert recipe.learning_rate == pytest.approx(float(keras.optimizers.RMSprop().learning_rate))


def test_the_dense_baseline_is_trained_for_5_epochs_in_batches_of_128() -> None:
    """Chapter 2's network, to which section 5.1 compares."""
    baseline, convnet = find_recipe("dense_baseline", "full"), find_recipe("mnist_convnet", "full")
    assert (baseline.epochs, baseline.batch_size, baseline.steps) == (5, 128, None)
    assert (baseline.learning_rate, baseline.dataset) == (convnet.learning_rate, convnet.dataset)


def test_labels_as_numbers_have_the_loss_of_labels_as_categories(
    convnet: keras.Model, rng: np.random.Generator
) -> None:
    """Listing 5.3 turns labels into categories for categorical crossentropy; the package leaves them as numbers."""
    training.compile_model(convnet, 1e-3)
    digits, labels = rng.random((6, 28, 28, 1)).astype(np.float32), np.array([3, 1, 4, 1, 5, 9])
    loss = convnet.evaluate(digits, labels, verbose=0)[0]
    oracle = keras.losses.categorical_crossentropy(keras.utils.to_categorical(labels, 10), convnet(digits))
    assert loss == pytest.approx(float(np.mean(keras.ops.convert_to_numpy(oracle))), rel=1e-5)


def test_the_error_falls_by_68_percent_but_by_58_as_printed() -> None:
    """Section 5.1: "99.3%: we decreased the error rate by 68%", under an output of 0.9908. Only one can be right."""
    dense = find_recipe("dense_baseline", "full").published["test"][0]
    printed, claimed = find_recipe("mnist_convnet", "full").published["test"]
    assert 1 - (1 - claimed) / (1 - dense) == pytest.approx(0.68, abs=0.005)
    assert printed == pytest.approx(0.9908, abs=0.0005)
    assert 1 - (1 - printed) / (1 - dense) < 0.6


def test_dense_layers_see_all_pixels_and_convolution_layers_a_small_window(convnet: keras.Model) -> None:
    """Section 5.1.1, figure 5.1: global patterns against local ones of 3x3."""
    where = changed(convnet.layers[0], 10, 20).any(axis=-1)
    assert {(int(i), int(j)) for i, j in np.argwhere(where)} == set(itertools.product((8, 9, 10), (18, 19, 20)))
    dense = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(50)])
    assert changed(dense, 10, 20).all()


def test_a_convolution_knows_a_pattern_anywhere_a_dense_layer_does_not(
    rng: np.random.Generator,
) -> None:
    """Section 5.1.1: "translation invariant"; more exactly the response moves with the pattern, with the same value."""
    pattern, kernel = rng.random((3, 3, 1)), rng.normal(size=(3, 3, 1, 4))
    weights = rng.normal(size=(144, 4))
    low, high = np.zeros((12, 12, 1)), np.zeros((12, 12, 1))
    low[8:11, 8:11], high[1:4, 2:5] = pattern, pattern
    responses = [reference.conv2d(picture, kernel) for picture in (low, high)]
    np.testing.assert_allclose(responses[0][8, 8], responses[1][1, 2])
    first, second = (reference.dense(picture.ravel(), weights) for picture in (low, high))
    assert not np.allclose(first, second)


def test_the_whole_convnet_is_not_translation_invariant(convnet: keras.Model) -> None:
    """Section 5.1.1 says so of "the patterns"; flattening and a shift that pooling doesn't divide end it."""
    shifted = np.roll(DIGIT, 1, axis=1)
    first, second = (keras.ops.convert_to_numpy(convnet(picture[None])) for picture in (DIGIT, shifted))
    assert not np.allclose(first, second, rtol=1e-3)


def test_each_layer_sees_larger_windows_than_the_layers_before() -> None:
    """Section 5.1.1, figure 5.2: the windows of listing 5.1's layers, in pixels of the digit."""
    stack = [Window(3), Window(2, 2), Window(3), Window(2, 2), Window(3)]
    assert [field.size for field in receptive_fields(28, stack)] == [3, 4, 8, 10, 18]


def test_each_output_channel_is_the_response_map_of_one_filter(rng: np.random.Generator) -> None:
    """Section 5.1.1, figure 5.3: `output[:, :, n]` is 26x26 and owes nothing to the other filters."""
    kernel = rng.normal(size=(3, 3, 1, 32))
    response = reference.conv2d(DIGIT, kernel)
    assert response.shape == (26, 26, 32)
    np.testing.assert_allclose(response[:, :, 7], reference.conv2d(DIGIT, kernel[..., 7:8])[:, :, 0])


def test_every_3d_patch_becomes_a_vector_by_the_same_tensor_product(convnet: keras.Model) -> None:
    """Section 5.1.1, figure 5.4, on the first layer of listing 5.1: at each of 676 places the same sum."""
    kernel, bias = convnet.layers[0].get_weights()
    output = keras.ops.convert_to_numpy(convnet.layers[0](DIGIT[None]))[0]
    patches = np.lib.stride_tricks.sliding_window_view(DIGIT[..., 0], (3, 3))
    vectors = np.einsum("ijkl,klf->ijf", patches, kernel[:, :, 0]) + bias
    np.testing.assert_allclose(output, np.maximum(vectors, 0), atol=1e-5)


def test_the_patch_under_an_output_is_i_minus_1_to_i_plus_2_in_python(rng: np.random.Generator) -> None:
    """Section 5.1.1: `input[i-1:i+1, j-1:j+1, :]` leaves out the last row and column; and it holds for "same" only."""
    kernel = rng.normal(size=(3, 3, 1, 5))
    i, j = 10, 12
    assert DIGIT[i - 1 : i + 1, j - 1 : j + 1].shape == (2, 2, 1), "the text's slices don't make a 3x3 window"
    patch = {"same": DIGIT[i - 1 : i + 2, j - 1 : j + 2], "valid": DIGIT[i : i + 3, j : j + 3]}
    for padding, window in patch.items():
        np.testing.assert_allclose(
            reference.conv2d(DIGIT, kernel, padding=padding)[i, j], np.tensordot(window, kernel, axes=3)
        )


def test_the_outputs_lower_right_corner_is_that_of_the_input(convnet: keras.Model) -> None:
    """Section 5.1.1: "every spatial location in the output feature map corresponds to the same location"."""
    where = changed(convnet.layers[0], 27, 27).any(axis=-1)
    assert np.argwhere(where).tolist() == [[25, 25]]


@pytest.mark.parametrize(
    ("options", "side"), [({}, 3), ({"padding": "same"}, 5), ({"stride": 2}, 2)], ids=["5.5", "5.6", "5.7"]
)
def test_a_5x5_map_has_9_patches_of_3x3_with_padding_25_with_stride_2_four(options: dict, side: int) -> None:
    """Figures 5.5 to 5.7."""
    assert reference.conv2d(np.ones((5, 5, 1)), np.ones((3, 3, 1, 1)), **options).shape == (side, side, 1)
    assert conv_output_size(5, 3, **options) == side


def test_padding_of_a_row_a_side_for_3x3_two_for_5x5_keeps_the_size() -> None:
    """Figure 5.6. "An output with the same width and height" holds for stride 1 only."""
    assert [same_padding(5, window) for window in (3, 5)] == [(1, 1), (2, 2)]
    assert [conv_output_size(5, window, padding="same") for window in (3, 5)] == [5, 5]
    assert conv_output_size(5, 3, stride=2, padding="same") == 3


def test_padding_defaults_to_valid_and_stride_to_1() -> None:
    """Section 5.1.1, of Keras's layer and of the package's arithmetic."""
    layer = layers.Conv2D(1, (3, 3))
    assert (layer.padding, layer.strides) == ("valid", (1, 1))
    assert conv_output_size(28, 3) == conv_output_size(28, 3, 1, "valid")


def test_stride_2_downsamples_by_2_in_addition_to_border_effects(rng: np.random.Generator) -> None:
    """Section 5.1.1: every second place of the unstrided convolution."""
    kernel = rng.normal(size=(3, 3, 1, 2))
    np.testing.assert_allclose(reference.conv2d(DIGIT, kernel, stride=2), reference.conv2d(DIGIT, kernel)[::2, ::2])


def test_max_pooling_halves_26_to_13_but_an_odd_size_loses_its_last_row() -> None:
    """Section 5.1.2: "halved after every MaxPooling2D layer" is true of 26; listing 5.1's 11 becomes 5."""
    assert [pool_output_size(size, 2) for size in (26, 11)] == [13, 5]
    picture = np.zeros((11, 11, 1))
    picture[10] = 9
    assert reference.max_pool2d(picture).max() == 0, "what stands in row 11 is not seen"


def test_max_pooling_takes_the_max_of_each_channel_in_2x2_windows(rng: np.random.Generator) -> None:
    """Section 5.1.2: "a hardcoded max tensor operation", without a learned transformation."""
    layer, picture = models.mnist_convnet().layers[1], rng.random((26, 26, 32)).astype(np.float32)
    pooled = keras.ops.convert_to_numpy(layer(picture[None]))[0]
    assert (layer.strides, layer.count_params()) == ((2, 2), 0)
    np.testing.assert_array_equal(pooled, picture.reshape(13, 2, 13, 2, 32).max(axis=(1, 3)))


def test_without_pooling_the_third_layer_sees_7x7_windows_of_the_digit() -> None:
    """Section 5.1.2, "what's wrong with this setup", first."""
    assert receptive_field([(3, 1)] * 3) == 7


def test_with_pooling_one_last_feature_still_sees_18_rows_of_28() -> None:
    """Section 5.1.2: "information about the totality of the input" is in the nine together: each sees 18 of 28 rows."""
    last = receptive_fields(28, [Window(3), Window(2, 2), Window(3), Window(2, 2), Window(3)])[-1]
    assert last.size == 18
    assert (last.outputs - 1) * last.jump + last.size == 26, "and the last two rows reach no feature at all"


def test_without_pooling_a_dense_layer_of_512_has_15_8_million_parameters() -> None:
    """Section 5.1.2, second: 15,860,224, which is 15.9 million when rounded."""
    coefficients = int(np.prod(models.mnist_convnet_without_pooling().output_shape[1:]))
    assert coefficients == 22 * 22 * 64 == 30_976
    assert 15.8e6 < dense_parameters(coefficients, 512) < 15.9e6
    with_pooling = models.mnist_convnet().layers[5].output.shape[-1]
    assert coefficients / with_pooling > 50, "pooling reduces the number of coefficients to process"


def test_max_pooling_keeps_a_presence_that_averages_and_strides_lose() -> None:
    """Section 5.1.2: "miss or dilute feature-presence information"."""
    presence = np.zeros((4, 4, 1))
    presence[1, 1] = 1
    assert reference.max_pool2d(presence).max() == 1
    assert reference.average_pool2d(presence).max() == 0.25
    assert presence[::2, ::2].max() == 0
