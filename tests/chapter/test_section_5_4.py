"""Section 5.4, visualizing what convnets learn, claim by claim in reading order; 5.4.3 has a file of its own, and what
the section argues of depth, information and filters is in experiments.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from builders import short_recipe
from claims import Evidence, claim
from keras import ops
from matplotlib import colormaps
from scipy import ndimage, spatial

from convspec import models, reference
from convspec.backend import value_and_gradient
from convspec.data import batches, decode, shapes
from convspec.data.datasets import Dataset
from convspec.ladder.run import run_recipe
from convspec.visualization import activations, deprocess_image, filter_patterns
from convspec.visualization.maps import channel_tiles, dead_share, tile, viridis
from convspec.visualization.trace import Trace

IMAGES_PER_ROW = 16
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


@pytest.fixture
def cat(data_folder: Path) -> Path:
    return data_folder / "dogs_vs_cats_small" / "test" / "cats" / "cat.1700.jpg"


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
def test_the_cat_is_loaded_as_listing_5_25_does_and_is_no_training_picture(cat: Path, data_folder: Path) -> None:
    """Shape (1, 150, 150, 3), "preprocessed this way", as in training."""
    img = keras.utils.load_img(cat, target_size=(150, 150))
    img_tensor = np.expand_dims(keras.utils.img_to_array(img), axis=0)
    img_tensor /= 255.0
    picture = batches.rescale(decode.load_image(cat, 150)[None].astype(np.float32))
    assert picture.shape == (1, 150, 150, 3)
    np.testing.assert_allclose(picture, img_tensor, rtol=1e-6)
    assert not list((data_folder / "dogs_vs_cats_small").glob("train/*/cat.1700.jpg"))


@claim(119.5, "5.4.1", "allows for models with multiple outputs, unlike Sequential", "qualified")
def test_a_sequential_model_has_several_outputs_where_its_last_layer_has(rng: np.random.Generator) -> None:
    """In Keras 3; those of other layers it has not."""
    inputs = keras.Input((3,))
    last = keras.Model(inputs, [keras.layers.Dense(units)(inputs) for units in (2, 1)])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), last])
    assert [output.shape for output in model.predict(rng.random((4, 3)), verbose=0)] == [(4, 2), (4, 1)]


@claim(141, "5.4", "highly amenable to visualization", "holds")
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
def test_a_filter_of_vgg16s_first_layer_is_a_diagonal_edge(
    first_filters: tuple[np.ndarray, np.ndarray], evidence: Evidence
) -> None:
    """One for either diagonal; of 64 kernels by chance none comes near. Which filter it is depends on the training."""

    def fit(kernels: np.ndarray) -> np.ndarray:
        """Return the share of each kernel's energy that a diagonal step in brightness has, (diagonals, kernels)."""
        row, column = np.mgrid[-1:2, -1:2]
        steps = np.stack([np.repeat(np.sign(edge), 3) for edge in (row - column, row + column)])
        flat = kernels.reshape(27, -1)
        return (steps @ flat) ** 2 / (steps**2).sum(axis=1, keepdims=True) / (flat**2).sum(axis=0)

    found, rng = fit(first_filters[0]), np.random.default_rng(54)
    chance = max(fit(rng.normal(size=(3, 3, 3, 64))).max() for _ in range(1000))
    evidence(
        ", ".join(f"filter {share.argmax()} is a diagonal edge by {share.max():.0%}" for share in found)
        + f"; of 1,000 x 64 random kernels the best by {chance:.0%}"
    )
    assert found.max(axis=1).min() > 0.9 > 0.7 > chance


@claim(121.3, "5.4.1", "the specific filters learned by convolution layers aren't deterministic", "qualified")
def test_one_seed_gives_the_same_filters_and_another_seed_others(few_shapes: Dataset, tmp_path: Path) -> None:
    """The same to the bit, on a processor and with as many threads."""
    recipe, kernels = short_recipe("from_scratch"), []
    for number, seed in enumerate((0, 0, 1)):
        run_recipe(recipe, few_shapes, seed, tmp_path / str(number))
        (file,) = (tmp_path / str(number) / "models").iterdir()
        kernels.append(keras.models.load_model(file, compile=False).layers[0].get_weights()[0])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max(axis=(0, 1, 2)).min() > 0.01, "no filter is the same"


@claim(121.5, "5.4.1", "looks like a “bright green dot” detector", "qualified", source="figure 5.26")
def test_a_filter_of_vgg16s_first_layer_finds_green_dots_alone(
    first_filters: tuple[np.ndarray, np.ndarray], evidence: Evidence
) -> None:
    """Not of the chapter's convnet, whose filters vary from training to training. It answers to no red or blue one, and
    less to a white one.
    """
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
def test_the_listing_shows_every_channel_only_of_multiples_of_16(convnet: keras.Model) -> None:
    """As all layers of its convnet have; here what is left over has a row of its own."""
    depths = [layer.output.shape[-1] for layer in convnet.layers[:8]]
    assert [divmod(depth, IMAGES_PER_ROW) for depth in depths] == [(n, 0) for n in (2, 2, 4, 4, 8, 8, 8, 8)]
    assert channel_tiles(np.ones((2, 2, 17))).shape == (4, 32, 3)


@claim(123.7, "5.4.1", "the activations retain almost all of the information present", "holds", kind="measured")
def test_a_linear_map_of_vgg16s_first_activations_gives_the_picture_back(data_folder: Path, evidence: Evidence) -> None:
    """Each pixel from the 64 values at its place, by a map that is fitted to ten pictures and tested on ten others."""
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (96, 96, 3))
    files = sorted((data_folder / "dogs_vs_cats_small" / "test").glob("*/*.jpg"))[::50]
    pixels = np.stack([decode.load_image(file, 96) for file in files]).astype(np.float32)
    first = keras.Model(base.inputs[0], base.get_layer("block1_conv1").output)
    maps = first.predict(models.PREPROCESSING["vgg16"](pixels.copy()), verbose=0)
    values = np.pad(maps, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1)  # and a constant
    fitted, tested = (part.reshape(-1, 65) for part in (values[::2], values[1::2]))
    known, wanted = (part.reshape(-1, 3) for part in (pixels[::2], pixels[1::2]))
    back = tested @ np.linalg.lstsq(fitted, known, rcond=None)[0]
    lost = np.sum((back - wanted) ** 2) / np.sum((wanted - wanted.mean(axis=0)) ** 2)
    evidence(f"{1 - lost:.1%} of the variance of the pixels of {len(files) // 2} other pictures")
    assert lost < 0.02


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
@pytest.mark.parametrize("picture", ["elephant", "cat"])
def test_more_filters_of_vgg16_are_blank_in_the_last_layer_than_before(
    picture: str, preprocessing: str, data_folder: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    """Of the first layer none is; up to block5_conv2 fewer than a tenth, of block5_conv3 0.16 to 0.23.

    So whether inputs are prepared as for the weights or rescaled. In between it goes up and down, not "more and more".
    """
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (224, 224, 3))
    pixels = decode.load_image(request.getfixturevalue(picture), 224).astype(np.float32)
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


@claim(141, "5.4", "highly amenable to visualization", "holds")
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
    evidence(
        f"mean activation {responses[0]:.1f} on noise, {responses[1]:.1f} after 40 steps, {responses[2]:.1f} after 60"
    )
    assert responses[0] < responses[1] < responses[2]


@claim(127, "5.4.2", "dividing it by its L2 norm", "refuted", source="listing 5.34")
@claim(127.2, "5.4.2", "magnitude of the updates ... always within the same range", "qualified", source="listing 5.34")
def test_a_step_has_root_mean_square_1_for_gradients_far_above_1e_5() -> None:
    """Which is added to the divisor: a gradient of less is a smaller step. By the L2 norm that the text names, and
    describes as "the square root of the average of the square", it would be 260 times less.
    """
    model = models.small_convnet((46, 46, 3))
    kernel, bias = model.layers[0].get_weights()
    moved = []
    for scale in (1e4, 1e6, 1e-2):
        model.layers[0].set_weights([scale * kernel, bias])
        start, end = (filter_patterns(model, model.layers[0].name, [0], 150, n, as_pictures=False) for n in (0, 1))
        moved.append(end - start)
    *large, small = (np.sqrt(np.mean(step**2)) for step in moved)
    assert large == pytest.approx([1, 1], rel=0.01)
    assert np.linalg.norm(moved[0]) == pytest.approx(260, rel=0.01)
    assert 0 < small < 0.5


@claim(127.5, "5.4.2", "is responsive to a polka-dot pattern", "holds", source="figure 5.29", kind="measured")
def test_filter_0_of_block3_conv1_has_a_pattern_of_polka_dots(data_folder: Path, evidence: Evidence) -> None:
    """Many bright spots, round, and more evenly apart than by chance; the next filter's are few and long.

    How many there are depends on the last bits of a gradient, and so on the machine.
    """
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (96, 96, 3))
    spots = []
    for pattern in filter_patterns(base, "block3_conv1", [0, 1], 96):
        bright = pattern.mean(axis=-1)[10:-10, 10:-10]  # the edges are another matter
        marks, count = ndimage.label(bright > bright.mean() + 2.5 * bright.std())
        places = [place for place in ndimage.find_objects(marks) if marks[place].size > 1]
        heights, widths = np.array([marks[place].shape for place in places]).T
        middles = np.array([[(side.start + side.stop) / 2 for side in place] for place in places])
        nearest = spatial.KDTree(middles).query(middles, 2)[0][:, 1]
        evenness = nearest.mean() / (0.5 * np.sqrt(bright.size / len(middles)))  # 1 by chance (Clark and Evans, 1954)
        spots.append((len(places), float(np.median(np.maximum(heights / widths, widths / heights))), float(evenness)))
    for number, (count, length, evenness) in enumerate(spots):
        evidence(f"filter {number}: {count} spots, {length:.1f} times as long as wide, evenly apart by {evenness:.2f}")
    count, length, evenness = spots[0]
    assert count > 40
    assert length < 1.5 < spots[1][1]
    assert evenness > 1 + 5 * 0.523 / np.sqrt(count), "by chance it scatters by 0.523 / sqrt(spots) (Clark and Evans)"


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
