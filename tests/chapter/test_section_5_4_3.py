"""Section 5.4.3, heatmaps of class activation, claim by claim in reading order."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from claims import LEVEL, Evidence, claim
from keras import layers
from keras.applications.vgg16 import decode_predictions, preprocess_input
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression

from convspec import models
from convspec.backend import value_and_gradient
from convspec.cli import pictures
from convspec.data import decode, shapes
from convspec.data.datasets import Dataset
from convspec.visualization import class_activation_map, superimpose
from convspec.visualization.maps import class_activation_maps
from convspec.visualization.trace import Trace

AFRICAN_ELEPHANT = 386
to_numpy = keras.ops.convert_to_numpy


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return models.conv_base(input_shape=(224, 224, 3))


@claim(141, "5.4", "highly amenable to visualization", "holds")
@claim(131, "5.4.3", "and also a heatmap for the class “dog,”", "holds")
def test_a_picture_has_a_heatmap_for_each_class_and_one_unit_opposite_ones() -> None:
    """What speaks for one of two classes speaks against the other: no place is in both maps."""
    keras.utils.set_random_seed(54)
    mini = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    model = keras.Sequential([keras.Input((48, 48, 3)), mini, layers.Flatten(), layers.Dense(1, activation="sigmoid")])
    pictures_ = shapes.pictures(shapes.TARGETS, 4, seed=2)[0] / np.float32(255)
    cats, dogs = (class_activation_maps(model, pictures_, index) for index in (0, 1))
    assert cats.shape == dogs.shape == (8, 6, 6)
    assert cats.any()
    assert dogs.any()
    assert not (cats * dogs).any()


@claim(80, "5.3.1", "they end with a densely connected classifier", "holds")
@claim(132, "5.4.3", "you include the densely connected classifier on top", "holds", source="listing 5.40")
def test_vgg16_with_its_dense_classifier_has_138357544_parameters(vgg16: keras.Model) -> None:
    """The part that "in all previous cases, you discarded" is 89 % of the model."""
    with keras.StatelessScope(initialize_variables=False):  # drawing 138 million numbers takes seconds
        model = models.conv_base("vgg16", None, (224, 224, 3), include_top=True)
    assert model.count_params() == 138_357_544
    assert 1 - vgg16.count_params() / model.count_params() == pytest.approx(0.89, abs=0.005)
    top = [layers.Flatten(), *(layers.Dense(4096, activation="relu") for _ in range(2))]
    expected = [*vgg16.layers, *top, layers.Dense(1000, activation="softmax")]
    ours, listed = (
        [layer.get_config() | {"name": type(layer).__name__} for layer in each] for each in (model.layers, expected)
    )
    assert ours == listed


@claim(133, "5.4.3", "this does channel-wise color normalization", "holds", source="listing 5.41")
def test_preprocessing_for_vgg16_is_bgr_less_a_mean_and_not_rescaled(rng: np.random.Generator) -> None:
    """Unlike the 1/255 with which sections 5.2 and 5.3 feed it."""
    picture = rng.integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    prepared = models.PREPROCESSING["vgg16"](picture.copy())
    np.testing.assert_allclose(prepared, picture[..., ::-1] - [103.939, 116.779, 123.68], rtol=1e-5, atol=1e-4)


def elephants(elephant: Path) -> np.ndarray:
    """Listing 5.41."""
    img = keras.utils.load_img(elephant, target_size=(224, 224))
    return preprocess_input(np.expand_dims(keras.utils.img_to_array(img), axis=0))


@claim(133.5, "5.4.3", "a batch of size (1, 224, 224, 3)", "holds", source="listing 5.41")
def test_the_elephants_become_the_batch_of_one_that_listing_5_41_makes(elephant: Path) -> None:
    pixels = decode.load_image(elephant, 224)[None]
    assert pixels.shape == (1, 224, 224, 3)
    ours = models.PREPROCESSING["vgg16"](pixels.astype(np.float32))
    np.testing.assert_allclose(ours, elephants(elephant), rtol=1e-6)


@pytest.fixture(scope="module")
def classifier(top_weights: Path) -> keras.Model:
    """Listing 5.40."""
    return models.conv_base("vgg16", top_weights, (224, 224, 3), include_top=True)


@pytest.mark.full
@claim(134, "5.4.3", "African elephant (with 92.5% probability)", "holds", kind="measured")
@claim(134.5, "5.4.3", "at index 386", "holds", kind="measured")
def test_the_elephants_are_african_elephants_tuskers_and_indian_ones(
    classifier: keras.Model, elephant: Path, evidence: Evidence
) -> None:
    """With WordNet's ids: n02504458, n01871265 and n02504013; 0.925, 0.070 and 0.004, where rounding allows 0.003."""
    preds = classifier.predict(elephants(elephant), verbose=0)
    assert np.argmax(preds[0]) == AFRICAN_ELEPHANT
    try:
        decoded = decode_predictions(preds, top=3)[0]
    except Exception as error:  # keras.utils.get_file raises no narrower one
        if "fetch failure" not in str(error):
            raise
        pytest.skip("needs ImageNet's classes: imagenet_class_index.json in Keras's own folder, or the network")
    evidence(", ".join(f"{name} {share:.3f}" for _, name, share in decoded))
    assert [(wordnet, name) for wordnet, name, _ in decoded] == [
        ("n02504458", "African_elephant"), ("n01871265", "tusker"), ("n02504013", "Indian_elephant")
    ]  # fmt: skip
    assert [share for *_, share in decoded] == pytest.approx([0.925, 0.070, 0.004], abs=0.003)


def listing_5_42(model: keras.Model, x: np.ndarray, index: int) -> np.ndarray:
    """Return the heatmap before listing 5.43, by Keras's own parts of the model up to the layer and from it on."""
    last_conv_layer = model.get_layer("block5_conv3")
    rest = keras.Model(last_conv_layer.output, model.outputs[0])
    conv_layer_output = keras.Model(model.inputs[0], last_conv_layer.output)(x)
    _, grads = value_and_gradient(lambda maps: rest(maps)[:, index], conv_layer_output)
    pooled_grads_value = to_numpy(grads).mean(axis=(0, 1, 2))
    assert pooled_grads_value.shape == (512,)
    conv_layer_output_value = np.array(to_numpy(conv_layer_output)[0])
    for i in range(512):
        conv_layer_output_value[:, :, i] *= pooled_grads_value[i]
    return np.mean(conv_layer_output_value, axis=-1)


@claim(135, "5.4.3", "Gradient of the “African elephant” class with regard to", "holds", source="listing 5.42")
@claim(136, "5.4.3", "Vector of shape (512,)", "holds", source="listing 5.42")
@claim(137, "5.4.3", "normalize the heatmap between 0 and 1", "qualified", source="listing 5.43")
def test_the_map_of_the_probability_is_that_of_listings_5_42_and_5_43(rng: np.random.Generator) -> None:
    """Of VGG16 with its classifier on small pictures. Where nothing speaks for the class the listing divides by 0; here
    the map is 0.
    """
    keras.utils.set_random_seed(54)
    model = models.conv_base("vgg16", None, (64, 64, 3), include_top=True)
    x = preprocess_input(rng.integers(0, 256, (1, 64, 64, 3)).astype(np.float32))
    compared = 0
    for index in (AFRICAN_ELEPHANT, 0, 1):
        heatmap = np.maximum(listing_5_42(model, x, index), 0)
        ours = class_activation_map(model, x, index, of="probability")
        assert ours.shape == (4, 4)
        if heatmap.any():
            compared += 1
            heatmap /= np.max(heatmap)
            np.testing.assert_allclose(ours, heatmap, atol=1e-3)
        else:
            assert not ours.any()
    assert compared, "all maps are 0"


@claim(135.5, "5.4.3", "how important each location is with respect to the class", "qualified", source="listing 5.42")
def test_the_probabilitys_map_leaves_out_what_speaks_for_a_rival_as_well() -> None:
    """Two classes share what is seen on the right; on the left is what one of them has alone. The score's map, which
    the package draws by default, has its peak on the right, the probability's has nothing there.
    """
    stack = [layers.Conv2D(2, 1, use_bias=False), layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((4, 6, 2)), *stack])
    own_and_shared = [[1, 0, 0], [2, 2, -600]]  # of the classes: elephant, rival, one that is ruled out
    model.set_weights([np.eye(2)[None, None], np.array(own_and_shared), np.zeros(3)])
    picture = np.zeros((4, 6, 2), np.float32)
    picture[:, 0, 0] = picture[:, -1, 1] = 1
    score, probability = (class_activation_map(model, picture, 0, of=of) for of in ("score", "probability"))
    assert score[:, -1].tolist() == [1] * 4
    assert score[:, 0].tolist() == pytest.approx([0.5] * 4)
    assert probability[:, 0].tolist() == [1] * 4
    assert np.abs(probability[:, -1]).max() < 0.1


@claim(136, "5.4.3", "Vector of shape (512,)", "holds", source="listing 5.42")
def test_the_heatmap_is_14x14_as_block5_conv3_the_last_convolution(vgg16: keras.Model) -> None:
    """One pooled gradient for each map of 14 x 14; the base's 7 x 7 need any head for a score."""
    trace = Trace(vgg16, np.zeros((224, 224, 3), np.float32))
    assert trace.find_maps(None) == "block5_conv3"
    assert trace.outputs["block5_conv3"].shape == (1, 14, 14, 512)
    pooled = layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((224, 224, 3)), vgg16, pooled, layers.Dense(2)])
    assert class_activation_map(model, np.zeros((1, 224, 224, 3)), 1).shape == (14, 14)


@claim(138, "5.4.3", "Superimposing the heatmap with the original picture", "holds", source="listing 5.44")
@pytest.mark.parametrize("name", ["written.png", "elephant_cam.jpg"])
def test_the_picture_and_its_file_are_those_that_listing_5_44_writes(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """At the size of the original. OpenCV reads, colours and writes BGR throughout; here RGB goes in and comes out."""
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((120, 90)).save(tmp_path / "original.png")
    heatmap = rng.random((5, 4)).astype(np.float32)
    img = np.asarray(cv2.imread(str(tmp_path / "original.png")))
    resized = np.uint8(255 * cv2.resize(heatmap, (img.shape[1], img.shape[0])))
    superimposed_img = cv2.applyColorMap(np.asarray(resized), cv2.COLORMAP_JET) * 0.4 + img
    assert superimposed_img.max() > 255, "`cv2.imwrite` clips what is above"
    cv2.imwrite(str(tmp_path / f"listed-{name}"), superimposed_img)
    pictures.write(superimpose(decode.load_image(tmp_path / "original.png"), heatmap), tmp_path / name)
    ours, listed = (decode.load_image(tmp_path / file).astype(int) for file in (name, f"listed-{name}"))
    assert ours.shape == (90, 120, 3)
    assert np.abs(ours - listed).max() <= (0 if name.endswith("png") else 2), "two encoders of JPEG may round otherwise"


@claim(138.5, "5.4.3", "Converts the heatmap to RGB", "refuted", source="listing 5.44")
def test_red_is_the_highest_in_rgb_though_the_colours_of_opencv_are_bgr() -> None:
    """OpenCV's `applyColorMap` makes BGR of it, which `cv2.imwrite` takes."""
    lowest, highest = superimpose(np.zeros((1, 2, 3)), np.array([[0.0, 1.0]]), intensity=1.0)[0].tolist()
    assert lowest == [0, 0, 128]
    assert highest == [128, 0, 0]
    assert cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_JET)[0, 0].tolist() == [0, 0, 128]


@pytest.mark.full
@claim(139, "5.4.3", "the ears of the elephant calf are strongly activated", "holds", kind="measured")
@pytest.mark.parametrize("of", ["score", "probability"])
def test_the_calfs_ear_is_among_the_tenth_of_the_map_that_is_highest(
    of: str, classifier: keras.Model, elephant: Path, evidence: Evidence
) -> None:
    """In the picture of 525 x 351 its ear is from 168 to 195 across and 131 to 180 down."""
    heatmap = class_activation_map(classifier, elephants(elephant), AFRICAN_ELEPHANT, of=of)  # type: ignore[arg-type]
    large = cv2.resize(heatmap, (525, 351))
    ear = large[131:180, 168:195].mean()
    evidence(f"by the {of}: the ear {ear:.2f} in the mean, the picture {large.mean():.2f}")
    assert ear > np.quantile(large, 0.9)


@pytest.fixture(scope="module")
def cats_and_dogs(dogs_and_weights: tuple[Dataset, Path]) -> tuple[keras.Model, np.ndarray]:
    """VGG16 with a logistic regression on the mean of each of its feature maps, of 40 pictures, and 40 others."""
    dataset, weights = dogs_and_weights
    prepare = models.PREPROCESSING["vgg16"]
    trained, others = (prepare(split.images.astype(np.float32)) for split in (dataset.train, dataset.test))
    assert dataset.validation is not None
    others = np.concatenate([others, prepare(dataset.validation.images.astype(np.float32))])
    base = models.conv_base("vgg16", weights, (150, 150, 3))
    model = keras.Sequential([keras.Input((150, 150, 3)), base, keras.layers.GlobalAveragePooling2D()])
    fitted = LogisticRegression(C=0.01, max_iter=1000).fit(
        model.predict(trained, batch_size=20, verbose=0), dataset.train.labels
    )
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    model.layers[-1].set_weights([fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)])
    return model, others


@pytest.mark.full
@claim(140, "5.4.3", "allows you to locate specific objects in an image", "qualified", kind="measured")
def test_what_the_map_points_at_decides_more_than_the_middle_does(
    cats_and_dogs: tuple[keras.Model, np.ndarray], evidence: Evidence
) -> None:
    """Covering a ninth at the peak lowers the logit more than one in the middle.

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
    peak, middle = np.mean(falls, axis=1)
    pvalue = stats.wilcoxon(*falls, alternative="greater").pvalue
    evidence(f"the logit falls by {peak:.2f} with the peak covered, by {middle:.2f} with the middle, p = {pvalue:.2g}")
    assert pvalue < LEVEL


@claim(140, "5.4.3", "allows you to locate specific objects in an image", "qualified", kind="measured")
def test_the_map_peaks_where_a_patch_stands_that_decides_the_class(evidence: Evidence) -> None:
    """Where one place decides: a filter that finds the patch, by construction, and a head that counts what it finds."""
    rng = np.random.default_rng(54)
    patch = np.sign(rng.normal(size=(8, 8, 1)))
    stack = [layers.Conv2D(1, 8, 4, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(1, "sigmoid")]
    model = keras.Sequential([keras.Input((40, 40, 1)), *stack])
    model.set_weights([patch[..., None], np.array([-30.0]), np.ones((1, 1)), np.array([-0.1])])
    scenes, places = rng.normal(0, 0.5, (50, 40, 40, 1)), rng.integers(0, 9, (50, 2))
    for scene, (row, column) in zip(scenes, 4 * places, strict=True):
        scene[row : row + 8, column : column + 8] = patch
    heatmaps = class_activation_maps(model, scenes, 1)
    peaks = [np.unravel_index(heatmap.argmax(), heatmap.shape) for heatmap in heatmaps]
    hits = np.mean([tuple(place) == peak for place, peak in zip(places.tolist(), peaks, strict=True)])
    evidence(f"the peak is at the patch in {hits:.2f} of 50 pictures; by chance in {1 / 81:.2f}")
    assert hits == 1
