"""Section 5.2, a convnet from scratch on few pictures, claim by claim; accuracies are in test_recorded_runs.py."""

from collections import Counter
from itertools import islice
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from convspec import models, training
from convspec.data import decode, folders
from convspec.data.augmentation import Augmentation, warp
from convspec.data.batches import Batches, rescale, stream
from convspec.ladder.rungs import CHAPTER_AUGMENTATION, find_recipe

KAGGLE = 25_000  # pictures of the competition, half cats, half dogs


@pytest.fixture(scope="module")
def convnet() -> keras.Model:
    return models.small_convnet()


@pytest.fixture(scope="module")
def files(data_folder: Path) -> folders.Reading:
    """The files of listing 5.4, as the package lists them."""
    return folders.read_layout(data_folder / "dogs_vs_cats_small")


def batches(count: int, batch_size: int, size: int = 6) -> Batches:
    pixels = np.random.default_rng(52).integers(0, 256, (count, size, size, 3), np.uint8)
    return Batches(pixels, np.arange(count) % 2, batch_size, rescale)


def test_of_each_class_1000_pictures_train_500_validate_and_500_test(files: folders.Reading) -> None:
    """Listing 5.4 and the counts printed after it: a balanced problem, where guessing is right half the time."""
    assert files.classes == ("cats", "dogs")
    counts = Counter(zip(files.parts or (), files.labels.tolist(), strict=True))
    expected = {"train": 1000, "validation": 500, "test": 500}
    assert counts == {(part, label): count for part, count in expected.items() for label in (0, 1)}


def test_training_takes_8_percent_of_the_competitions_data(files: folders.Reading) -> None:
    """Section 5.2.2: "less than 10% of the data": 8 % to train; validation makes it 12 % and testing 16 %."""
    shares = [(files.parts or ()).count(part) / KAGGLE for part in ("train", "validation", "test")]
    assert np.cumsum(shares).tolist() == pytest.approx([0.08, 0.12, 0.16])


def test_the_pictures_are_medium_resolution_colour_and_differ_in_size(files: folders.Reading) -> None:
    """Figure 5.8: "heterogeneous in size, appearance, and so on"."""
    shapes = [decode.load_image(path).shape for path in files.paths[::200]]
    assert len(set(shapes)) > 10
    assert all(channels == 3 and 30 < min(height, width) < 1200 for height, width, channels in shapes)


def test_the_network_has_one_convolution_and_two_poolings_more_than_mnists(convnet: keras.Model) -> None:
    """Section 5.2.3: "one more Conv2D + MaxPooling2D stage": listing 5.1's last convolution was not pooled."""

    def count(model: keras.Model, kind: type) -> int:
        return sum(isinstance(layer, kind) for layer in model.layers)

    digits = models.mnist_convnet()
    assert [count(model, layers.Conv2D) for model in (digits, convnet)] == [3, 4]
    assert [count(model, layers.MaxPooling2D) for model in (digits, convnet)] == [2, 4]


def test_depth_increases_from_32_to_128_while_size_decreases_from_148_to_7(convnet: keras.Model) -> None:
    """The note in section 5.2.3; "progressively": neither ever turns back."""
    shapes = [layer.output.shape[1:] for layer in convnet.layers[:8]]
    sizes, depths = [shape[0] for shape in shapes], [shape[2] for shape in shapes]
    assert (sizes[0], sizes[-1], depths[0], depths[-1]) == (148, 7, 32, 128)
    assert sizes == sorted(sizes, reverse=True)
    assert depths == sorted(depths)


def test_the_network_has_3453121_parameters_most_of_them_after_flatten(convnet: keras.Model) -> None:
    """Listing 5.5 and the summary after it: 93 % of the parameters stand in one Dense layer."""
    assert (convnet.layers[-1].units, convnet.layers[-1].activation) == (1, keras.activations.sigmoid)
    assert convnet.count_params() == 3_453_121
    assert convnet.layers[-2].count_params() / convnet.count_params() == pytest.approx(0.93, abs=0.001)


def test_it_is_compiled_with_rmsprop_at_1e_4_and_binary_crossentropy(convnet: keras.Model) -> None:
    """Listing 5.6."""
    training.compile_model(convnet, find_recipe("from_scratch", "full").learning_rate)
    assert isinstance(convnet.optimizer, keras.optimizers.RMSprop)
    assert float(convnet.optimizer.learning_rate) == pytest.approx(1e-4)
    assert convnet.loss == "binary_crossentropy"


def test_pixels_are_rescaled_from_0_255_to_0_1() -> None:
    """Section 5.2.4, step 4, and `rescale=1./255` in listing 5.7."""
    rescaled = rescale(np.arange(256, dtype=np.float32))
    assert rescaled.dtype == np.float32
    np.testing.assert_allclose(rescaled * 255, np.arange(256), rtol=1e-6)


def test_a_batch_is_20_rgb_images_of_150x150_and_20_binary_labels() -> None:
    """Listing 5.7 and the shapes printed after it."""
    recipe = find_recipe("from_scratch", "full")
    data, labels = next(stream(batches(30, recipe.batch_size, recipe.size), 0))
    assert data.shape == (20, 150, 150, 3)
    assert labels.shape == (20,)
    assert set(labels) <= {0, 1}


def test_a_generator_loops_endlessly_over_the_images() -> None:
    """Section 5.2.4: "you need to break the iteration loop at some point": the training stream never ends by itself."""
    labels = np.concatenate([labels for _, labels in islice(stream(batches(10, 4), 0), 25)])
    assert len(labels) == 100
    assert labels.sum() == 50, "ten whole passes over ten images"


def test_100_batches_of_20_show_2000_samples_in_each_of_30_epochs() -> None:
    """Listing 5.8: steps_per_epoch=100, and validation_steps=50 for 1,000 pictures: each is seen once."""
    recipe = find_recipe("from_scratch", "full")
    assert (recipe.epochs, recipe.steps, recipe.batch_size) == (30, 100, 20)
    assert len(batches(1000, recipe.batch_size)) == 50


def test_the_model_never_sees_the_exact_same_picture_twice() -> None:
    """Section 5.2.5: ten passes over five pictures give fifty different ones with listing 5.11's augmentation."""
    views = [batch.tobytes() for batch, _ in islice(stream(batches(5, 1, 24), 0, CHAPTER_AUGMENTATION), 50)]
    assert len(set(views)) == 50


def test_the_augmentation_is_that_of_listing_5_11() -> None:
    """Listing 5.14 leaves out fill_mode, whose default is the same."""
    assert Augmentation(40, 0.2, 0.2, 0.2, 0.2, True, "nearest") == CHAPTER_AUGMENTATION
    assert Augmentation().fill_mode == "nearest"
    assert find_recipe("augmented", "full").augmentation == CHAPTER_AUGMENTATION
    assert find_recipe("from_scratch", "full").augmentation is None


def test_rotations_shifts_and_zooms_reach_as_far_as_the_text_says(rng: np.random.Generator) -> None:
    """Section 5.2.5: up to 40 degrees either way, a fifth of each side, and factors from 0.8 to 1.2 on each axis."""
    draws = [CHAPTER_AUGMENTATION.draw(rng, 100, 200) for _ in range(2000)]
    reach = {name: max(abs(draw[name]) for draw in draws) for name in ("theta", "tx", "ty")}
    assert reach == pytest.approx({"theta": 40, "tx": 20, "ty": 40}, rel=0.02)
    factors = np.array([draw["zx"] for draw in draws])
    assert (factors.min(), factors.max()) == pytest.approx((0.8, 1.2), abs=0.01)
    assert np.mean(factors > 1) == pytest.approx(0.5, abs=0.05), '"randomly zooming inside pictures" is half of it'


def test_shearing_by_the_chapters_0_2_moves_no_pixel_by_as_much_as_a_third() -> None:
    """Section 5.2.5: "randomly applying shearing transformations"; 0.2 is in degrees, so there is next to none."""
    plain = {"theta": 0.0, "tx": 0.0, "ty": 0.0, "shear": 0.0, "zx": 1.0, "zy": 1.0, "flip_horizontal": 0.0}
    ramp = np.repeat(np.arange(150, dtype=np.float32)[:, None, None], 150, axis=1)  # each pixel tells its own row
    sheared = warp(ramp, plain | {"shear": CHAPTER_AUGMENTATION.shear_range})
    assert 0.2 < np.abs(sheared - ramp).max() < 1 / 3


def test_half_the_images_are_flipped_horizontally(rng: np.random.Generator) -> None:
    """Section 5.2.5: horizontally, so that columns change places and rows don't."""
    flip = Augmentation(horizontal_flip=True)
    picture = rng.integers(0, 256, (8, 8, 3), np.uint8)
    views = [flip(picture, rng) for _ in range(400)]
    mirrored = sum(np.array_equal(view, picture[:, ::-1]) for view in views)
    assert mirrored + sum(np.array_equal(view, picture) for view in views) == 400
    assert 160 < mirrored < 240


def test_newly_created_pixels_are_filled_with_the_nearest(rng: np.random.Generator) -> None:
    """Section 5.2.5 on fill_mode: after a shift of 3 rows the first ones repeat the edge."""
    picture = rng.integers(0, 256, (10, 10, 3), np.uint8)
    plain = {"theta": 0.0, "ty": 0.0, "shear": 0.0, "zx": 1.0, "zy": 1.0, "flip_horizontal": 0.0}
    shifted = warp(picture, plain | {"tx": -3.0}, CHAPTER_AUGMENTATION.fill_mode)
    np.testing.assert_array_equal(shifted[3:], picture[:-3])
    assert (shifted[:3] == picture[0]).all()


def test_augmented_pictures_are_still_heavily_intercorrelated(rng: np.random.Generator) -> None:
    """Section 5.2.5: "you can't produce new information": a view is nearer to its original than to another picture."""
    # Coarse blots, as in pictures; noise from pixel to pixel has no neighbourhood to be shifted in.
    originals = [np.kron(rng.integers(0, 256, (3, 3, 3)), np.ones((20, 20, 1))).astype(np.uint8) for _ in range(6)]
    mild = Augmentation(rotation_range=10, width_shift_range=0.05, height_shift_range=0.05, zoom_range=0.05)
    for own, original in enumerate(originals):
        view = mild(original, rng).astype(float)
        assert int(np.argmin([np.abs(view - other).mean() for other in originals])) == own


def test_dropout_of_one_half_stands_before_the_dense_layers() -> None:
    """Listing 5.13: "right before the densely connected classifier"; it rests when predicting."""
    model = models.small_convnet((46, 46, 3), dropout=find_recipe("augmented", "full").dropout)
    dropout = model.layers[-3]
    assert isinstance(dropout, layers.Dropout)
    features = np.ones((1, 2000), np.float32)
    kept, dropped = (keras.ops.convert_to_numpy(dropout(features, training=training)) for training in (False, True))
    np.testing.assert_array_equal(kept, features)
    assert np.mean(dropped == 0) == pytest.approx(0.5, abs=0.06)


def test_with_batches_of_32_each_of_100_epochs_is_more_than_one_pass() -> None:
    """Listing 5.14 keeps steps_per_epoch=100 and validation_steps=50: 3,200 views of 2,000, and 1,600 of 1,000."""
    recipe = find_recipe("augmented", "full")
    assert (recipe.epochs, recipe.steps, recipe.batch_size) == (100, 100, 32)
    assert recipe.learning_rate == find_recipe("from_scratch", "full").learning_rate
    assert len(batches(1000, recipe.batch_size)) == 32, "not 50: the package validates on each picture once"


def test_the_validation_data_is_not_augmented() -> None:
    """The remark in listing 5.14: what validates is each picture itself, rescaled, in order."""
    held_out = batches(7, 3)
    seen = np.concatenate([held_out[number][0] for number in range(len(held_out))])
    np.testing.assert_array_equal(seen, rescale(held_out.inputs.astype(np.float32)))


def test_from_71_to_82_percent_is_a_relative_improvement_of_15_percent() -> None:
    """Section 5.2.5; as a reduction of the error rate, which section 5.1 counts by, it would be 38 %."""
    low, high = find_recipe("from_scratch", "full").published["validation"]
    without, with_augmentation = (low + high) / 2, find_recipe("augmented", "full").published["validation"][0]
    assert with_augmentation / without - 1 == pytest.approx(0.15, abs=0.006)
    assert 1 - (1 - with_augmentation) / (1 - without) == pytest.approx(0.38, abs=0.005)
