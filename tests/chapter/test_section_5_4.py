"""Section 5.4, visualizing what convnets learn, claim by claim in reading order."""

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
from convspec.visualization import activations, class_activation_map, filter_patterns, superimpose
from convspec.visualization.maps import class_activation_maps, dead_share, tile
from convspec.visualization.trace import Trace


@pytest.fixture(scope="module")
def convnet() -> keras.Model:
    """The model that listing 5.15 saved, before training."""
    return models.small_convnet(dropout=0.5)


@pytest.fixture(scope="module")
def first_eight(convnet: keras.Model) -> list[np.ndarray]:
    """Listings 5.27 and 5.28: the outputs of the first eight layers for one picture."""
    picture = np.random.default_rng(54).random((150, 150, 3)).astype(np.float32)
    return list(activations(convnet, picture).values())[:8]


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return models.conv_base(input_shape=(224, 224, 3))


@pytest.fixture(scope="module")
def trace(vgg16: keras.Model) -> Trace:
    return Trace(vgg16, np.zeros((224, 224, 3), np.float32))


def test_the_cat_is_a_4d_tensor_and_not_among_those_trained_on(data_folder: Path) -> None:
    """Listing 5.25: shape (1, 150, 150, 3), "preprocessed this way", as in training."""
    root = data_folder / "dogs_vs_cats_small"
    picture = batches.rescale(decode.load_image(root / "test/cats/cat.1700.jpg", 150)[None].astype(np.float32))
    assert picture.shape == (1, 150, 150, 3)
    assert 0.5 < picture.max() <= 1
    assert not list(root.glob("train/*/cat.1700.jpg"))


def test_the_first_eight_layers_are_all_convolutions_and_poolings(convnet: keras.Model) -> None:
    """Listing 5.27: "the activations of all convolution and pooling layers"; the ninth layer is Flatten."""
    kinds = [type(layer).__name__ for layer in convnet.layers]
    assert kinds[:9] == ["Conv2D", "MaxPooling2D"] * 4 + ["Flatten"]


def test_there_is_one_array_per_layer_activation_eight_not_five(first_eight: list[np.ndarray]) -> None:
    """The remark at listing 5.28: "a list of five Numpy arrays"; section 5.4.1 itself says "eight outputs"."""
    assert [each.ndim for each in first_eight] == [3] * 8
    assert first_eight[0].shape == (148, 148, 32)
    assert first_eight[-1].shape == (7, 7, 128)


def test_index_4_is_the_fifth_channel_and_index_7_the_eighth(rng: np.random.Generator) -> None:
    """Listings 5.29 and 5.30: "the fourth", "the seventh"; a layer without its first filters shows which is which."""
    model = models.small_convnet((46, 46, 3))
    kernel, bias = model.layers[0].get_weights()
    for index, position in ((4, 5), (7, 8)):
        for silenced in (position - 1, position):
            model.layers[0].set_weights([np.where(np.arange(32) < silenced, 0, np.abs(kernel)), bias])
            maps = activations(model, rng.random((46, 46, 3)))[model.layers[0].name]
            assert maps[:, :, index].any() == (silenced < position)


def test_every_channel_finds_a_place_in_rows_of_16(first_eight: list[np.ndarray]) -> None:
    """Listing 5.31: `n_features // images_per_row` would leave channels out if their number were no multiple of 16."""
    assert [divmod(each.shape[-1], 16) for each in first_eight] == [(n, 0) for n in (2, 2, 4, 4, 8, 8, 8, 8)]


def test_all_filters_of_the_first_layer_are_active_and_later_not_all() -> None:
    """Section 5.4.1, "the sparsity of the activations increases with the depth of the layer", of the mini base."""
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    pictures = shapes.pictures(shapes.TARGETS, 5, seed=1)[0] / np.float32(255)
    shares = [dead_share(activations(base, picture)) for picture in pictures]
    first, second, third, last = (
        np.mean([share[name] for share in shares])
        for name in ("block1_conv1", "block2_conv1", "block3_conv2", "block4_conv2")
    )
    assert first == second == 0
    assert last > third > 0


@pytest.mark.full
@pytest.mark.parametrize("preprocessing", ["vgg16", "mini"])
@pytest.mark.parametrize("picture", ["creative_commons_elephant.jpg", "dogs_vs_cats_small/test/cats/cat.1700.jpg"])
def test_more_filters_of_vgg16_are_blank_in_the_last_layer_than_before(
    picture: str, preprocessing: str, data_folder: Path
) -> None:
    """Of the first layer none is; up to block5_conv2 fewer than a tenth, of block5_conv3 0.13 to 0.23.

    So whether inputs are prepared as for the weights or rescaled. In between it goes up and down, not "more and more".
    """
    base = models.conv_base("vgg16", data_folder / "vgg16_notop.weights.h5", (224, 224, 3))
    pixels = decode.load_image(data_folder / picture, 224).astype(np.float32)
    dead = dead_share(activations(base, models.PREPROCESSING[preprocessing](pixels[None])))
    first, *between, last = (share for name, share in dead.items() if "conv" in name)
    assert first == 0
    assert max(between) < 0.1 < last


def test_a_step_by_the_l2_norm_that_the_text_names_would_be_260_times_less() -> None:
    """Listing 5.34: "the square root of the average of the square" is the root mean square, not the L2 norm."""
    model = models.small_convnet((46, 46, 3))
    kernel, bias = model.layers[0].get_weights()
    model.layers[0].set_weights([1e4 * kernel, bias])  # a gradient to which 1e-5 is nothing
    start, end = (filter_patterns(model, model.layers[0].name, [0], 150, n, as_pictures=False) for n in (0, 1))
    assert np.sqrt(np.mean((end - start) ** 2)) == pytest.approx(1, rel=0.01)
    assert np.linalg.norm(end - start) == pytest.approx(260, rel=0.01)


def test_the_first_layer_of_each_block_has_the_64_filters_of_the_grid(trace: Trace) -> None:
    """Listing 5.39: "the first 64 filters in each layer", and "the first layer of each convolution block"."""
    assert trace.first_convolutions() == [f"block{block}_conv1" for block in range(1, 6)]
    depths = [trace.outputs[name].shape[-1] for name in trace.first_convolutions()]
    assert depths == [64, 128, 256, 512, 512]


def test_the_8x8_grid_of_64x64_patterns_with_margins_is_547_pixels_wide(rng: np.random.Generator) -> None:
    """Listing 5.39: `8 * size + 7 * margin`, with "some black margins", of 5; read here row by row."""
    patterns = rng.integers(1, 256, (64, 64, 64, 3), np.uint8)
    grid = tile(patterns, columns=8, margin=5)
    assert grid.shape == (547, 547, 3)
    for place in (0, 10, 63):
        top, left = place // 8 * 69, place % 8 * 69
        np.testing.assert_array_equal(grid[top : top + 64, left : left + 64], patterns[place])
    assert np.count_nonzero(grid) == patterns.size, "margins are black"


def test_vgg16_with_its_dense_classifier_has_138357544_parameters(vgg16: keras.Model) -> None:
    """Listing 5.40: the part that "in all previous cases, you discarded" is 89 % of the model."""
    flat = int(np.prod(vgg16.output_shape[1:]))
    top = dense_parameters(flat, 4096) + dense_parameters(4096, 4096) + dense_parameters(4096, 1000)
    assert vgg16.count_params() + top == 138_357_544
    assert top / 138_357_544 == pytest.approx(0.89, abs=0.005)


def test_preprocessing_for_vgg16_is_bgr_less_a_mean_and_not_rescaled(rng: np.random.Generator) -> None:
    """Listing 5.41: "channel-wise color normalization", unlike the 1/255 with which sections 5.2 and 5.3 feed it."""
    picture = rng.integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    prepared = models.PREPROCESSING["vgg16"](picture.copy())
    np.testing.assert_allclose(prepared, picture[..., ::-1] - [103.939, 116.779, 123.68], rtol=1e-5, atol=1e-4)


def test_the_elephants_become_a_batch_of_one_at_224(data_folder: Path) -> None:
    """Listing 5.41: (1, 224, 224, 3)."""
    assert decode.load_image(data_folder / "creative_commons_elephant.jpg", 224)[None].shape == (1, 224, 224, 3)


def test_the_heatmap_is_14x14_as_block5_conv3_the_last_convolution(vgg16: keras.Model, trace: Trace) -> None:
    """Listing 5.42: 512 pooled gradients, one for each map of 14 x 14; the base's 7 x 7 need any head for a score."""
    assert trace.find_maps(None) == "block5_conv3"
    assert trace.outputs["block5_conv3"].shape == (1, 14, 14, 512)
    pooled = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((224, 224, 3)), vgg16, pooled, keras.layers.Dense(2)])
    assert class_activation_map(model, np.zeros((1, 224, 224, 3)), 1).shape == (14, 14)


def test_the_superimposed_picture_is_the_one_that_listing_5_44_writes(rng: np.random.Generator, tmp_path: Path) -> None:
    """OpenCV reads, colours and writes BGR throughout; here RGB goes in and comes out."""
    image = rng.integers(0, 256, (30, 20, 3), np.uint8)
    heatmap = rng.random((5, 4)).astype(np.float32)
    resized = np.uint8(255 * cv2.resize(heatmap, (20, 30)))
    superimposed = cv2.applyColorMap(np.asarray(resized), cv2.COLORMAP_JET) * 0.4 + image[..., ::-1]
    assert superimposed.max() > 255, "`cv2.imwrite` clips what is above"
    cv2.imwrite(str(tmp_path / "written.png"), superimposed)
    written = np.asarray(cv2.imread(str(tmp_path / "written.png")))[..., ::-1]
    np.testing.assert_array_equal(superimpose(image, heatmap), written)


def test_red_is_the_highest_in_rgb_though_the_colours_of_opencv_are_bgr() -> None:
    """Listing 5.44 says "converts the heatmap to RGB", and `cv2.applyColorMap` gives BGR."""
    lowest, highest = superimpose(np.zeros((1, 2, 3)), np.array([[0.0, 1.0]]), intensity=1.0)[0].tolist()
    assert lowest == [0, 0, 128]
    assert highest == [128, 0, 0]
    assert cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_JET)[0, 0].tolist() == [0, 0, 128]


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
def test_what_the_map_points_at_decides_more_than_the_middle_does(
    cats_and_dogs: tuple[keras.Model, np.ndarray],
) -> None:
    """Section 5.4.3, "where is" it: covering a ninth at the peak lowers the logit more than one in the middle.

    Nobody has noted where a cat or a dog is.
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
