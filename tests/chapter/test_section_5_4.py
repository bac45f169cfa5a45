"""Section 5.4, visualizing what convnets learn: sizes, numbers and remarks of the text, claim by claim."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from convspec import models
from convspec.arithmetic import dense_parameters
from convspec.data import batches, decode, shapes
from convspec.data.datasets import Dataset
from convspec.visualization import maps as maps_module
from convspec.visualization.maps import class_activation_maps, dead_share


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
    picture = batches.rescale(decode.load_image(root / "test/cats/cat.1700.jpg", 150)[None].astype(np.float32))
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
    shows which is which.
    """
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


def test_all_filters_of_the_first_layer_are_activated_and_of_the_last_some_are_blank() -> None:
    """Section 5.4.1, "the sparsity of the activations increases with the depth of the layer", of the mini base."""
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    pictures = shapes.pictures(shapes.TARGETS, 5, seed=1)[0] / np.float32(255)
    shares = [dead_share(maps_module.activations(base, picture)) for picture in pictures]
    first, second, third, last = (
        np.mean([share[name] for share in shares])
        for name in ("block1_conv1", "block2_conv1", "block3_conv2", "block4_conv2")
    )
    assert first == second == 0
    assert last > third > 0


@pytest.mark.full
@pytest.mark.parametrize("preprocessing", ["vgg16", "mini"])
@pytest.mark.parametrize("picture", ["creative_commons_elephant.jpg", "dogs_vs_cats_small/test/cats/cat.1700.jpg"])
def test_more_filters_of_vgg16_are_blank_in_the_last_layer_than_anywhere_before(
    picture: str, preprocessing: str, data_folder: Path
) -> None:
    """Of the first layer none is; up to block5_conv2 fewer than a tenth, of block5_conv3 0.13 to 0.23, whether inputs
    are prepared as for the weights or rescaled. In between it goes up and down, rather than "more and more".
    """
    base = models.conv_base("vgg16", data_folder / "vgg16_notop.weights.h5", (224, 224, 3))
    seen = decode.load_image(data_folder / picture, 224).astype(np.float32)
    prepared = models.PREPROCESSING[preprocessing](seen[None])[0]
    dead = dead_share(maps_module.activations(base, prepared))
    first, *between, last = (share for name, share in dead.items() if "conv" in name)
    assert first == 0
    assert max(between) < 0.1 < last


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
    assert decode.load_image(data_folder / "creative_commons_elephant.jpg", 224)[None].shape == (1, 224, 224, 3)


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


@pytest.fixture(scope="module")
def cats_and_dogs(dogs_and_weights: tuple[Dataset, Path]) -> tuple[keras.Model, np.ndarray]:
    """VGG16 with a logistic regression on the mean of each of its feature maps, of 40 pictures, and 24 others."""
    dataset, weights = dogs_and_weights
    prepare = models.PREPROCESSING["vgg16"]
    trained, others = (prepare(split.images.astype(np.float32)) for split in (dataset.train, dataset.test))
    assert dataset.validation is not None
    others = np.concatenate([others, prepare(dataset.validation.images.astype(np.float32))])[:24]
    base = models.conv_base("vgg16", weights, (150, 150, 3))
    model = keras.Sequential([keras.Input((150, 150, 3)), base, keras.layers.GlobalAveragePooling2D()])
    fitted = LogisticRegression(C=0.01, max_iter=1000).fit(
        model.predict(trained, batch_size=20, verbose=0), dataset.train.labels
    )
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    model.layers[-1].set_weights([fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)])
    return model, others


@pytest.mark.full
def test_what_the_map_points_at_decides_more_than_the_middle_of_the_picture(
    cats_and_dogs: tuple[keras.Model, np.ndarray],
) -> None:
    """Where a cat or a dog is nobody has noted, so that the pointing game has no truth here; but a square of a ninth of
    the picture, covered at the peak, lowers the logit of the class predicted by more than one in the middle.
    """
    model, pictures = cats_and_dogs

    def logits(seen: np.ndarray) -> np.ndarray:
        shares = model.predict(seen, batch_size=24, verbose=0)[:, 0].astype(float)
        return np.log(shares / (1 - shares))

    whole = logits(pictures)
    heatmaps = class_activation_maps(model, pictures)
    assert heatmaps.shape == (len(pictures), 9, 9)
    falls = []
    for middles in ([np.argwhere(heatmap == heatmap.max())[0] for heatmap in heatmaps], [(4, 4)] * len(pictures)):
        covered = pictures.copy()
        for picture, middle in zip(covered, middles, strict=True):
            top, left = np.clip(np.round((np.array(middle) + 0.5) * 150 / 9 - 25).astype(int), 0, 100)
            picture[top : top + 50, left : left + 50] = picture.mean(axis=(0, 1))
        falls.append(np.sign(whole) * (whole - logits(covered)))
    assert stats.wilcoxon(*falls, alternative="greater").pvalue < 0.05, f"means of the falls: {np.mean(falls, axis=1)}"


@pytest.mark.full
def test_a_last_convolution_drawn_anew_destroys_the_map_and_noise_in_the_picture_does_not(
    cats_and_dogs: tuple[keras.Model, np.ndarray], dogs_and_weights: tuple[Dataset, Path], rng: np.random.Generator
) -> None:
    """The sanity check of Adebayo et al. 2018, by rank correlation, at the first step of their cascade from the top.
    Drawn anew from bottom to top, VGG16 gives maps of 0 everywhere.
    """
    model, pictures = cats_and_dogs
    pictures = pictures[:10]
    classes = (model.predict(pictures, verbose=0)[:, 0] > 0.5).astype(int)
    maps = class_activation_maps(model, pictures, classes)
    keras.utils.set_random_seed(0)
    other = models.conv_base("vgg16", dogs_and_weights[1], (150, 150, 3))
    kernel, bias = other.get_layer("block5_conv3").get_weights()
    drawn = keras.ops.convert_to_numpy(keras.initializers.GlorotUniform(seed=0)(kernel.shape))
    other.get_layer("block5_conv3").set_weights([drawn, bias * 0])
    destroyed = keras.Sequential([keras.Input((150, 150, 3)), other, *model.layers[1:]])

    def likeness(model: keras.Model, pictures: np.ndarray) -> float:
        others = class_activation_maps(model, pictures, classes)
        ranks = [
            stats.spearmanr(a, b, axis=None).statistic if a.any() else 0 for a, b in zip(others, maps, strict=True)
        ]
        return float(np.mean(ranks))

    assert abs(likeness(destroyed, pictures)) < 0.3
    assert likeness(model, pictures + rng.normal(0, 2, pictures.shape).astype(np.float32)) > 0.95
