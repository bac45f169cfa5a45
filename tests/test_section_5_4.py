"""Section 5.4, visualizing what convnets learn: sizes, numbers and remarks of the text, claim by claim."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from convspec import images, models
from convspec.arithmetic import dense_parameters


@pytest.fixture
def rng() -> np.random.Generator:
    """The same draws for every test, in whatever order they run."""
    return np.random.default_rng(54)


@pytest.fixture(scope="module")
def convnet() -> keras.Model:
    """The model that listing 5.15 saved, before training."""
    return models.small_convnet(dropout=0.5)


@pytest.fixture(scope="module")
def activations(convnet: keras.Model) -> list[np.ndarray]:
    """Listings 5.27 and 5.28: the outputs of the first eight layers for one picture."""
    several = keras.Model(convnet.inputs, [layer.output for layer in convnet.layers[:8]])
    return several.predict(np.random.default_rng(54).random((1, 150, 150, 3)).astype(np.float32), verbose=0)


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return models.conv_base(input_shape=(224, 224, 3))


def test_the_picture_of_the_cat_is_a_4d_tensor_and_not_among_those_trained_on(data_folder: Path) -> None:
    """Listing 5.25: shape (1, 150, 150, 3), "preprocessed this way", as in training."""
    root = data_folder / "dogs_vs_cats_small"
    picture = images.rescale(images.load_image(root / "test/cats/cat.1700.jpg", 150)[None].astype(np.float32))
    assert picture.shape == (1, 150, 150, 3)
    assert 0.5 < picture.max() <= 1
    assert not list(root.glob("train/*/cat.1700.jpg"))


def test_the_first_eight_layers_are_all_the_convolutions_and_poolings(convnet: keras.Model) -> None:
    """Listing 5.27: "the activations of all convolution and pooling layers"; the ninth layer is Flatten."""
    kinds = [type(layer).__name__ for layer in convnet.layers]
    assert kinds[:9] == ["Conv2D", "MaxPooling2D"] * 4 + ["Flatten"]


def test_the_model_returns_eight_arrays_not_five_one_per_layer_activation(activations: list[np.ndarray]) -> None:
    """The remark at listing 5.28: "a list of five Numpy arrays"; section 5.4.1 itself says "eight outputs"."""
    assert len(activations) == 8
    assert activations[0].shape == (1, 148, 148, 32)
    assert activations[-1].shape == (1, 7, 7, 128)


def test_index_4_of_the_first_activation_is_its_fifth_channel_and_index_7_its_eighth(
    rng: np.random.Generator,
) -> None:
    """Listings 5.29 and 5.30 call them "the fourth channel" and "the seventh"; a layer without its first n filters
    shows which is which."""
    layer = models.small_convnet((46, 46, 3)).layers[0]
    kernel, bias = layer.get_weights()
    for index, position in ((4, 5), (7, 8)):
        for silenced in (position - 1, position):
            layer.set_weights([np.where(np.arange(32) < silenced, 0, kernel), bias])
            channel = keras.ops.convert_to_numpy(layer(rng.random((1, 46, 46, 3))))[0, :, :, index]
            assert channel.any() == (silenced < position)


def test_every_channel_finds_a_place_in_rows_of_16(activations: list[np.ndarray]) -> None:
    """Listing 5.31: `n_features // images_per_row` would leave channels out if their number were no multiple of 16."""
    assert [activation.shape[-1] // 16 for activation in activations] == [2, 2, 4, 4, 8, 8, 8, 8]
    assert all(activation.shape[-1] % 16 == 0 for activation in activations)


def test_dividing_a_gradient_by_its_l2_norm_as_the_text_has_it_would_take_steps_260_times_smaller(
    rng: np.random.Generator,
) -> None:
    """Listing 5.34: "the square root of the average of the square" is the root mean square, not the L2 norm."""
    gradient = rng.normal(size=(1, 150, 150, 3))
    root_mean_square = np.sqrt(np.mean(np.square(gradient)))
    assert (
        np.linalg.norm(gradient) / root_mean_square == pytest.approx(np.sqrt(gradient.size)) == pytest.approx(260, 1e-2)
    )


def test_block1_conv1_has_just_the_64_filters_of_an_8x8_grid_and_the_other_blocks_have_more(
    vgg16: keras.Model,
) -> None:
    """Listing 5.39: "you'll only look at the first 64 filters in each layer"."""
    assert [vgg16.get_layer(f"block{n}_conv1").filters for n in range(1, 6)] == [64, 128, 256, 512, 512]


def test_the_grid_of_64_patterns_of_64_pixels_with_margins_of_5_is_547_pixels_wide() -> None:
    """Listing 5.39: the last pattern ends where the picture does."""
    size, margin = 64, 5
    assert 7 * (size + margin) + size == 8 * size + 7 * margin == 547


def test_with_the_dense_classifier_on_top_vgg16_at_224_has_138357544_parameters(vgg16: keras.Model) -> None:
    """Listing 5.40: the part that "in all previous cases, you discarded" is 89 % of the model."""
    flat = int(np.prod(vgg16.output_shape[1:]))
    top = dense_parameters(flat, 4096) + dense_parameters(4096, 4096) + dense_parameters(4096, 1000)
    assert vgg16.count_params() + top == 138_357_544
    assert top / 138_357_544 == pytest.approx(0.89, abs=0.005)


def test_preprocessing_for_vgg16_turns_rgb_into_bgr_less_a_mean_per_channel_and_does_not_rescale(
    rng: np.random.Generator,
) -> None:
    """Listing 5.41: "channel-wise color normalization", unlike the 1/255 with which sections 5.2 and 5.3 feed it."""
    picture = rng.integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    prepared = keras.applications.vgg16.preprocess_input(picture.copy())
    np.testing.assert_allclose(prepared, picture[..., ::-1] - [103.939, 116.779, 123.68], rtol=1e-5, atol=1e-4)


def test_the_elephants_become_a_batch_of_one_at_224(data_folder: Path) -> None:
    """Listing 5.41: (1, 224, 224, 3)."""
    assert images.load_image(data_folder / "creative_commons_elephant.jpg", 224)[None].shape == (1, 224, 224, 3)


def test_block5_conv3_is_the_last_convolution_and_its_map_of_14_14_512_sets_the_heatmaps_size(
    vgg16: keras.Model,
) -> None:
    """Listing 5.42: a vector of 512 pooled gradients, and a heatmap of 14x14 for a picture of 224x224."""
    last = [layer for layer in vgg16.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    assert last.name == "block5_conv3"
    assert last.output.shape[1:] == (14, 14, 512)


def test_the_coloured_heatmap_is_bgr_like_the_picture_that_opencv_loads() -> None:
    """Listing 5.44 says "converts the heatmap to RGB"; red, for the highest, is in OpenCV's last channel."""
    coloured = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_JET)[0]
    lowest, highest = coloured.tolist()
    assert (lowest[0] > 0, lowest[2]) == (True, 0)
    assert (highest[0], highest[2] > 0) == (0, True)


def test_a_heatmap_of_four_tenths_on_top_can_pass_255_and_must_be_clipped() -> None:
    """Listing 5.44: `heatmap * 0.4 + img` is no picture yet; `cv2.imwrite` clips what is above."""
    white = np.full((1, 1, 3), 255.0)
    superimposed = cv2.applyColorMap(np.array([[160]], np.uint8), cv2.COLORMAP_JET) * 0.4 + white
    assert superimposed.max() > 255
    kept = np.asarray(cv2.imdecode(cv2.imencode(".png", superimposed)[1], cv2.IMREAD_COLOR))
    np.testing.assert_array_equal(kept, white)
