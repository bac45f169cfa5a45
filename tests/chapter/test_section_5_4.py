"""Section 5.4, visualizing what convnets learn, claim by claim in reading order; what it argues of depth, information
and filters is in experiments.
"""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from claims import Evidence, claim
from keras import layers, ops
from keras.applications.vgg16 import decode_predictions, preprocess_input
from matplotlib import colormaps
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression

from convspec import models, reference
from convspec.backend import value_and_gradient
from convspec.cli import pictures
from convspec.data import batches, decode, shapes
from convspec.data.datasets import Dataset
from convspec.visualization import activations, class_activation_map, deprocess_image, filter_patterns, superimpose
from convspec.visualization.maps import channel_tiles, class_activation_maps, dead_share, tile, viridis
from convspec.visualization.trace import Trace

IMAGES_PER_ROW = 16
ELEPHANT, CAT = "creative_commons_elephant.jpg", "dogs_vs_cats_small/test/cats/cat.1700.jpg"
AFRICAN_ELEPHANT = 386
to_numpy = keras.ops.convert_to_numpy


@pytest.fixture(scope="module")
def convnet() -> keras.Model:
    """The model that listing 5.15 saved, before training."""
    keras.utils.set_random_seed(54)
    return models.small_convnet(dropout=0.5)


@pytest.fixture(scope="module")
def img_tensor() -> np.ndarray:
    """A picture in the shape of listing 5.25."""
    return np.random.default_rng(54).random((1, 150, 150, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def mini() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return models.conv_base(input_shape=(224, 224, 3))


@pytest.fixture(scope="module")
def trace(vgg16: keras.Model) -> Trace:
    return Trace(vgg16, np.zeros((224, 224, 3), np.float32))


# 5.4.1: activations


@claim(119, "5.4.1", "not part of the images the network was trained on", "holds", source="listing 5.25")
def test_the_cat_is_loaded_as_listing_5_25_does_and_is_no_training_picture(data_folder: Path) -> None:
    """Shape (1, 150, 150, 3), "preprocessed this way", as in training."""
    img = keras.utils.load_img(data_folder / CAT, target_size=(150, 150))
    img_tensor = np.expand_dims(keras.utils.img_to_array(img), axis=0)
    img_tensor /= 255.0
    picture = batches.rescale(decode.load_image(data_folder / CAT, 150)[None].astype(np.float32))
    assert picture.shape == (1, 150, 150, 3)
    np.testing.assert_allclose(picture, img_tensor, rtol=1e-6)
    assert not list((data_folder / "dogs_vs_cats_small").glob("train/*/cat.1700.jpg"))


@claim(120, "5.4.1", "one input and eight outputs: one output per layer activation", "holds", source="listing 5.27")
@claim(120.5, "5.4.1", "Returns a list of five Numpy arrays", "refuted", source="listing 5.28")
def test_the_first_eight_activations_are_those_of_listings_5_27_and_5_28(
    convnet: keras.Model, img_tensor: np.ndarray
) -> None:
    """Of "all convolution and pooling layers"; the ninth is Flatten. Eight arrays, not the remark's five."""
    assert [type(layer).__name__ for layer in convnet.layers[:9]] == ["Conv2D", "MaxPooling2D"] * 4 + ["Flatten"]
    layer_outputs = [layer.output for layer in convnet.layers[:8]]
    activation_model = keras.Model(inputs=convnet.inputs, outputs=layer_outputs)
    listed = activation_model.predict(img_tensor, verbose=0)
    ours = list(activations(convnet, img_tensor).items())[:8]
    assert [name for name, _ in ours] == [layer.name for layer in convnet.layers[:8]]
    assert len(listed) == 8
    assert listed[0].shape == (1, 148, 148, 32)
    for (name, activation), expected in zip(ours, listed, strict=True):
        np.testing.assert_allclose(activation, expected[0], atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def first_filters(data_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of VGG16's first layer, whose channels are blue, green and red."""
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (32, 32, 3))
    kernel, bias = base.get_layer("block1_conv1").get_weights()
    return kernel, bias


@claim(121, "5.4.1", "appears to encode a diagonal edge detector", "qualified", source="figure 5.25")
def test_a_filter_of_vgg16s_first_layer_prefers_a_diagonal_edge(
    first_filters: tuple[np.ndarray, np.ndarray], evidence: Evidence
) -> None:
    """Over level and upright ones and the other diagonal, by a third; which filter it is depends on the training."""
    row, column = np.mgrid[-3:4, -3:4]
    responses = []
    for edge in (row, column, row - column, row + column):
        sides = [np.repeat(np.sign(way * edge)[..., None], 3, axis=-1) * 50.0 for way in (1, -1)]
        responses.append(np.max([reference.conv2d(side, *first_filters).max(axis=(0, 1)) for side in sides], axis=0))
    for diagonal, others in ((2, [0, 1, 3]), (3, [0, 1, 2])):
        ratio = responses[diagonal] / np.maximum(np.max([responses[place] for place in others], axis=0), 1)
        evidence(f"filter {ratio.argmax()}: {ratio.max():.2f} times as much as to any other edge")
        if ratio.max() > 1.3:
            return
    pytest.fail("no filter prefers a diagonal edge to others by a third")


@claim(121.5, "5.4.1", "looks like a “bright green dot” detector", "holds", source="figure 5.26")
def test_a_filter_of_vgg16s_first_layer_finds_green_dots_alone(
    first_filters: tuple[np.ndarray, np.ndarray], evidence: Evidence
) -> None:
    """It does not answer at all to a red or a blue one, nor as much to a white one."""
    responses = {}
    for name, colour in {"blue": (1, 0, 0), "green": (0, 1, 0), "red": (0, 0, 1), "white": (1, 1, 1)}.items():
        dot = np.full((7, 7, 3), -50.0)
        dot[3, 3] += 100 * np.array(colour)
        responses[name] = np.maximum(reference.conv2d(dot, *first_filters), 0).max(axis=(0, 1))
    best = int((responses["green"] - responses["red"] - responses["blue"]).argmax())
    evidence(f"filter {best}: " + ", ".join(f"{name} {values[best]:.0f}" for name, values in responses.items()))
    assert responses["red"][best] == responses["blue"][best] == 0
    assert responses["green"][best] > 2 * responses["white"][best] > 0


@claim(122, "5.4.1", "Visualizing the fourth channel", "refuted", source="listings 5.29 and 5.30")
def test_index_4_is_the_fifth_channel_and_index_7_the_eighth(rng: np.random.Generator) -> None:
    """A layer without its first filters shows which is which; the colours are `matshow`'s in viridis."""
    model = models.small_convnet((46, 46, 3))
    kernel, bias = model.layers[0].get_weights()
    for index, position in ((4, 5), (7, 8)):
        for silenced in (position - 1, position):
            model.layers[0].set_weights([np.where(np.arange(32) < silenced, 0, np.abs(kernel)), bias])
            channel = activations(model, rng.random((46, 46, 3)))[model.layers[0].name][:, :, index]
            assert channel.any() == (silenced < position)
            spread = (channel - channel.min()) / (np.ptp(channel) or 1)
            np.testing.assert_allclose(viridis(channel), colormaps["viridis"](spread, bytes=True)[..., :3], atol=1)


@claim(123, "5.4.1", "plot every channel in each of the eight activation maps", "holds", source="listing 5.31")
def test_every_channel_is_tiled_and_coloured_as_listing_5_31_does(convnet: keras.Model, img_tensor: np.ndarray) -> None:
    """Dead channels aside, where the listing divides by 0: here they are black."""
    for name, activation in list(activations(convnet, img_tensor).items())[:8]:
        layer_activation = np.array(activation[None], np.float64)
        n_features, size = layer_activation.shape[-1], layer_activation.shape[1]
        n_cols = n_features // IMAGES_PER_ROW
        display_grid = np.zeros((size * n_cols, IMAGES_PER_ROW * size))
        dead = np.zeros(display_grid.shape, bool)
        for col in range(n_cols):
            for row in range(IMAGES_PER_ROW):
                place = slice(col * size, (col + 1) * size), slice(row * size, (row + 1) * size)
                channel_image = layer_activation[0, :, :, col * IMAGES_PER_ROW + row]
                if not channel_image.any():
                    dead[place] = True
                    continue
                channel_image -= channel_image.mean()
                channel_image /= channel_image.std()
                channel_image *= 64
                channel_image += 128
                display_grid[place] = np.clip(channel_image, 0, 255).astype("uint8")
        coloured = colormaps["viridis"](display_grid.astype(np.uint8), bytes=True)[..., :3].astype(int)
        coloured[dead] = 0
        ours = channel_tiles(activation)
        assert ours.shape == coloured.shape
        # float32 maps against float64: a shade may fall to the other side of a whole number, which is 4 of a colour.
        np.testing.assert_allclose(ours, coloured, atol=5, err_msg=name)


@claim(123.5, "5.4.1", "n_cols = n_features // images_per_row", "qualified", source="listing 5.31")
def test_the_listing_shows_every_channel_only_of_multiples_of_16(convnet: keras.Model, mini: keras.Model) -> None:
    """As all layers of its convnet have; here what is left over has a row of its own."""
    depths = [layer.output.shape[-1] for layer in convnet.layers[:8]]
    assert [divmod(depth, IMAGES_PER_ROW) for depth in depths] == [(n, 0) for n in (2, 2, 4, 4, 8, 8, 8, 8)]
    assert channel_tiles(np.ones((2, 2, 17))).shape == (4, 32, 3)


@claim(125.3, "5.4.1", "in the first layer, all filters are activated", "qualified", kind="measured")
@claim(125.6, "5.4.1", "in the following layers, more and more filters are blank", "qualified", kind="measured")
def test_all_filters_of_the_first_layer_are_active_and_later_not_all(mini: keras.Model, evidence: Evidence) -> None:
    """Of the mini base."""
    samples = shapes.pictures(shapes.TARGETS, 5, seed=1)[0] / np.float32(255)
    shares = [dead_share(activations(mini, picture)) for picture in samples]
    names = ("block1_conv1", "block2_conv1", "block3_conv2", "block4_conv2")
    first, second, third, last = (np.mean([share[name] for share in shares]) for name in names)
    evidence(f"blank in the mini base, by block: {first:.0%}, {second:.0%}, {third:.1%}, {last:.1%}")
    assert first == second == 0
    assert last > third > 0


@pytest.mark.full
@claim(125.3, "5.4.1", "in the first layer, all filters are activated", "qualified", kind="measured")
@claim(125.6, "5.4.1", "in the following layers, more and more filters are blank", "qualified", kind="measured")
@pytest.mark.parametrize("preprocessing", ["vgg16", "mini"])
@pytest.mark.parametrize("picture", [ELEPHANT, CAT])
def test_more_filters_of_vgg16_are_blank_in_the_last_layer_than_before(
    picture: str, preprocessing: str, data_folder: Path, evidence: Evidence
) -> None:
    """Of the first layer none is; up to block5_conv2 fewer than a tenth, of block5_conv3 0.13 to 0.23.

    So whether inputs are prepared as for the weights or rescaled. In between it goes up and down, not "more and more".
    """
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (224, 224, 3))
    pixels = decode.load_image(data_folder / picture, 224).astype(np.float32)
    dead = dead_share(activations(base, models.PREPROCESSING[preprocessing](pixels[None])))
    first, *between, last = (share for name, share in dead.items() if "conv" in name)
    evidence(f"blank in VGG16: first layer {first:.0%}, last {last:.0%}, at most {max(between):.0%} in between")
    assert first == 0
    assert max(between) < 0.1 < last


# 5.4.2: filters


def generate_pattern(
    model: keras.Model, layer_name: str, filter_index: int, start: np.ndarray, steps: int
) -> np.ndarray:
    """Listings 5.32 to 5.36 and 5.38, from a given start and up to the last line, which deprocesses the result."""
    iterate = keras.Model(model.inputs[0], model.get_layer(layer_name).output)
    input_img_data, step = start, 1.0
    for _ in range(steps):
        _, grads = value_and_gradient(
            lambda inputs: ops.mean(iterate(inputs)[:, :, :, filter_index])[None], ops.convert_to_tensor(input_img_data)
        )
        grads = grads / (ops.sqrt(ops.mean(ops.square(grads))) + 1e-5)
        input_img_data = input_img_data + to_numpy(grads) * step
    return input_img_data[0]


def listing_5_37(x: np.ndarray) -> np.ndarray:
    x -= x.mean()
    x /= x.std() + 1e-5
    x *= 0.1
    x += 0.5
    x = np.clip(x, 0, 1)
    x *= 255
    return np.clip(x, 0, 255).astype("uint8")


@claim(126, "5.4.2", "one that the chosen filter is maximally responsive to", "qualified", source="listing 5.38")
def test_a_pattern_is_that_of_listing_5_38_and_its_filter_responds_more(evidence: Evidence) -> None:
    """Not maximally: 40 steps end where they end, and further ones would go on. The noise is the same."""
    base = models.conv_base("mini", models.MINI_WEIGHTS, (24, 24, 3))
    noise = np.random.default_rng(0).random((1, 24, 24, 3)).astype(np.float32) * 20 + 128
    responses = []
    for steps in (0, 40, 60):
        (ours,) = filter_patterns(base, "block2_conv1", [3], 24, steps, as_pictures=False)
        responses.append(float(activations(base, ours)["block2_conv1"][..., 3].mean()))
        if steps == 40:
            listed = generate_pattern(base, "block2_conv1", 3, noise, steps)
            np.testing.assert_allclose(ours, listed, atol=0.05)  # of 255
            (picture,) = filter_patterns(base, "block2_conv1", [3], 24, steps)
            np.testing.assert_array_equal(picture, deprocess_image(ours))
            assert np.abs(picture.astype(int) - listing_5_37(listed.astype(np.float64))).max() <= 1
    evidence(
        f"mean activation {responses[0]:.1f} on noise, {responses[1]:.1f} after 40 steps, {responses[2]:.1f} after 60"
    )
    assert responses[0] < responses[1] < responses[2]


@claim(127, "5.4.2", "dividing it by its L2 norm", "refuted", source="listing 5.34")
def test_a_step_by_the_l2_norm_that_the_text_names_would_be_260_times_less() -> None:
    """What it describes, "the square root of the average of the square", is the root mean square."""
    model = models.small_convnet((46, 46, 3))
    kernel, bias = model.layers[0].get_weights()
    model.layers[0].set_weights([1e4 * kernel, bias])  # a gradient to which 1e-5 is nothing
    start, end = (filter_patterns(model, model.layers[0].name, [0], 150, n, as_pictures=False) for n in (0, 1))
    assert np.sqrt(np.mean((end - start) ** 2)) == pytest.approx(1, rel=0.01)
    assert np.linalg.norm(end - start) == pytest.approx(260, rel=0.01)


@claim(128, "5.4.2", "an 8×8 grid of 64×64 filter patterns", "holds", source="listing 5.39")
def test_the_grid_is_that_of_listing_5_39_down_the_columns(rng: np.random.Generator) -> None:
    """Filter 1 stands below filter 0; "some black margins", of 5."""
    patterns = rng.integers(1, 256, (64, 64, 64, 3), np.uint8)
    size, margin = 64, 5
    results = np.zeros((8 * size + 7 * margin, 8 * size + 7 * margin, 3))
    for i in range(8):
        for j in range(8):
            filter_img = patterns[i + (j * 8)]
            horizontal_start = i * size + i * margin
            horizontal_end = horizontal_start + size
            vertical_start = j * size + j * margin
            vertical_end = vertical_start + size
            results[horizontal_start:horizontal_end, vertical_start:vertical_end, :] = filter_img
    np.testing.assert_array_equal(tile(patterns, 8, margin, down=True), results)


@claim(128.5, "5.4.2", "only look at the first layer of each convolution block", "holds")
def test_the_first_layer_of_each_block_has_the_64_filters_of_the_grid(trace: Trace) -> None:
    """And at "the first 64 filters in each layer"."""
    assert trace.first_convolutions() == [f"block{block}_conv1" for block in range(1, 6)]
    depths = [trace.outputs[name].shape[-1] for name in trace.first_convolutions()]
    assert depths == [64, 128, 256, 512, 512]


# 5.4.3: class activation maps


@claim(131, "5.4.3", "and also a heatmap for the class “dog,”", "holds")
def test_a_picture_has_a_heatmap_for_each_class_and_one_unit_opposite_ones(mini: keras.Model) -> None:
    """What speaks for one of two classes speaks against the other: no place is in both maps."""
    keras.utils.set_random_seed(54)
    model = keras.Sequential([keras.Input((48, 48, 3)), mini, layers.Flatten(), layers.Dense(1, activation="sigmoid")])
    pictures_ = shapes.pictures(shapes.TARGETS, 4, seed=2)[0] / np.float32(255)
    cats, dogs = (class_activation_maps(model, pictures_, index) for index in (0, 1))
    assert cats.shape == dogs.shape == (8, 6, 6)
    assert cats.any()
    assert dogs.any()
    assert not (cats * dogs).any()


@claim(132, "5.4.3", "you include the densely connected classifier on top", "holds", source="listing 5.40")
def test_vgg16_with_its_dense_classifier_has_138357544_parameters(vgg16: keras.Model) -> None:
    """The part that "in all previous cases, you discarded" is 89 % of the model."""
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


def elephants(data_folder: Path) -> np.ndarray:
    """Listing 5.41."""
    img = keras.utils.load_img(data_folder / ELEPHANT, target_size=(224, 224))
    return preprocess_input(np.expand_dims(keras.utils.img_to_array(img), axis=0))


@claim(133.5, "5.4.3", "a batch of size (1, 224, 224, 3)", "holds", source="listing 5.41")
def test_the_elephants_become_the_batch_of_one_that_listing_5_41_makes(data_folder: Path) -> None:
    pixels = decode.load_image(data_folder / ELEPHANT, 224)[None]
    assert pixels.shape == (1, 224, 224, 3)
    ours = models.PREPROCESSING["vgg16"](pixels.astype(np.float32))
    np.testing.assert_allclose(ours, elephants(data_folder), rtol=1e-6)


@pytest.fixture(scope="module")
def classifier(top_weights: Path) -> keras.Model:
    """Listing 5.40."""
    return models.conv_base("vgg16", top_weights, (224, 224, 3), include_top=True)


@pytest.mark.full
@claim(134, "5.4.3", "African elephant (with 92.5% probability)", "holds", kind="measured")
@claim(134.5, "5.4.3", "at index 386", "holds", kind="measured")
def test_the_elephants_are_african_elephants_tuskers_and_indian_ones(
    classifier: keras.Model, data_folder: Path, evidence: Evidence
) -> None:
    """With WordNet's ids: n02504458, n01871265 and n02504013; 0.925, 0.070 and 0.004, where rounding allows 0.003."""
    preds = classifier.predict(elephants(data_folder), verbose=0)
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
def test_the_heatmap_is_14x14_as_block5_conv3_the_last_convolution(vgg16: keras.Model, trace: Trace) -> None:
    """One pooled gradient for each map of 14 x 14; the base's 7 x 7 need any head for a score."""
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
    lowest, highest = superimpose(np.zeros((1, 2, 3)), np.array([[0.0, 1.0]]), intensity=1.0)[0].tolist()
    assert lowest == [0, 0, 128]
    assert highest == [128, 0, 0]
    assert cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_JET)[0, 0].tolist() == [0, 0, 128]


@pytest.mark.full
@claim(139, "5.4.3", "the ears of the elephant calf are strongly activated", "holds", kind="measured")
@pytest.mark.parametrize("of", ["score", "probability"])
def test_the_calfs_ear_is_among_the_tenth_of_the_map_that_is_highest(
    of: str, classifier: keras.Model, data_folder: Path, evidence: Evidence
) -> None:
    """In the picture of 525 x 351 its ear is from 168 to 195 across and 131 to 180 down."""
    heatmap = class_activation_map(classifier, elephants(data_folder), AFRICAN_ELEPHANT, of=of)  # type: ignore[arg-type]
    large = cv2.resize(heatmap, (525, 351))
    ear = large[131:180, 168:195].mean()
    evidence(f"by the {of}: the ear {ear:.2f} in the mean, the picture {large.mean():.2f}")
    assert ear > np.quantile(large, 0.9)


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
    assert pvalue < 0.05


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


@claim(141, "5.4", "convnets are the opposite of black boxes!", "holds")
def test_the_chapters_convnet_opens_up_in_all_three_ways(convnet: keras.Model, img_tensor: np.ndarray) -> None:
    """Activations of each layer, a pattern for any filter, and a map for a class."""
    assert len(activations(convnet, img_tensor)) == len(convnet.layers) == 12
    last = [layer.name for layer in convnet.layers if isinstance(layer, layers.Conv2D)][-1]
    assert filter_patterns(convnet, last, [0, 127], 60, 1).shape == (2, 60, 60, 3)
    assert class_activation_map(convnet, img_tensor).shape == (15, 15)
