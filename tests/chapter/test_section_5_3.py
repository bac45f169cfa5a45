"""Section 5.3, using a pretrained convnet, claim by claim; what its listings train is in test_section_5_3_listings.py,
accuracies in test_recorded_runs.py, what it argues of layers, freezing and depth in experiments.
"""

import itertools
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import keras
import numpy as np
import pytest
from builders import assert_builds_as_listed, mini_base, recorded_runs, result_with_history, vgg_by_hand
from claims import Evidence, claim, expect
from experiments import Learner, as_batches
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from convspec import BadInput, features, models, training
from convspec.arithmetic import multiply_adds, pool_output_size
from convspec.data.batches import Batches, View, identity, rescale, stream
from convspec.data.datasets import load_dataset
from convspec.data.decode import load_image
from convspec.ladder.rungs import CHAPTER_AUGMENTATION, find_recipe
from convspec.progress import Clock
from convspec.report import charts

pytestmark = pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")  # as the listings do


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return models.conv_base()


def mini_batches(count: int, rng: np.random.Generator, batch_size: int = 20) -> Batches:
    return Batches(rng.integers(0, 256, (count, 48, 48, 3), np.uint8), np.arange(count) % 2, batch_size, rescale)


# 5.3: VGG16 among others


@claim(79.5, "5.3", "somewhat heavier than many other recent models", "qualified")
def test_vgg16_is_5_times_as_heavy_as_later_models_though_not_its_base(evidence: Evidence) -> None:
    """Than four of the chapter's list, of 2015 to 2017: not "somewhat". Its dense layers make it so: of bases, which
    are what the chapter uses, its own has the fewest parameters but for MobileNet's, and the most arithmetic.
    """
    with keras.StatelessScope(initialize_variables=False):  # drawing the weights takes seconds
        whole, *later = (
            models.conv_base(name, None, (224, 224, 3), include_top=True)
            for name in ("vgg16", "inception_v3", "resnet50", "xception", "mobilenet")
        )
    base = [layer for layer in whole.layers if layer.name.startswith("block")]
    own, own_base = whole.count_params() / 1e6, sum(layer.count_params() for layer in base) / 1e6
    millions = [model.count_params() / 1e6 for model in later]
    bases = [(model.count_params() - model.layers[-1].count_params()) / 1e6 for model in later[:3]]
    evidence(
        f"{own:.1f} million parameters, InceptionV3, ResNet50, Xception and MobileNet"
        f" {', '.join(f'{number:.1f}' for number in millions)}; {own_base:.1f} in the base, of the first three"
        f" {', '.join(f'{number:.1f}' for number in bases)}"
    )
    assert own > 5 * max(millions)
    assert own_base < min(bases)
    assert sum(map(multiply_adds, base)) > 3 * max(map(multiply_adds, later))


# 5.3.1: the base


@claim(81, "5.3.1", "training a new classifier on top of the output", "holds", source="figure 5.14")
def test_a_frozen_base_with_a_head_computes_what_the_head_does_on_features(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """The chapter reports 90 % one way and "about 96%" the other. Frozen, both compute the same function of a picture:
    only augmentation and the missing dropout can tell them apart, or a base that was not frozen.
    """
    base = mini_base()
    models.freeze(base)
    model, head = models.end_to_end(base), models.feature_classifier(base.output_shape[1:])
    head.set_weights([weight for layer in model.layers[-2:] for weight in layer.get_weights()])
    batches = mini_batches(5, rng)
    recorded = features.extract(base, batches, tmp_path, clock=Clock())
    np.testing.assert_allclose(model.predict(batches, verbose=0), head.predict(recorded, verbose=0), rtol=1e-4)


@claim(83.5, "5.3.1", "object location is still described by convolutional feature maps", "holds")
def test_the_maps_answer_to_a_blot_is_where_the_blot_is() -> None:
    """A bright blot in a black picture, and the map's pixel that it changes most; one pixel of a map is 16 wide."""
    base, empty = mini_base(96), np.zeros((1, 96, 96, 3), np.float32)
    for place in ((24, 24), (24, 72), (72, 24), (72, 72)):
        blot = empty.copy()
        blot[0, place[0] - 5 : place[0] + 5, place[1] - 5 : place[1] + 5] = (1, 0.8, 0.2)
        gain = np.abs(base.predict(blot, verbose=0) - base.predict(empty, verbose=0))[0].sum(axis=-1)
        row, column = np.unravel_index(gain.argmax(), gain.shape)
        assert abs(row * 16 + 8 - place[0]) <= 16
        assert abs(column * 16 + 8 - place[1]) <= 16


@pytest.fixture(scope="module")
def imagenet_probabilities(data_folder: Path, top_weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of 20 cats and 20 dogs, which are dogs, and the probability of each of ImageNet's classes by VGG16 as it is."""
    model = models.conv_base("vgg16", top_weights, (224, 224, 3), include_top=True)
    files = sorted((data_folder / "dogs_vs_cats_small" / "test").glob("*/*.jpg"))[::25]
    inputs = models.PREPROCESSING["vgg16"](np.stack([load_image(file, 224) for file in files]).astype(np.float32))
    return np.array([file.parent.name == "dogs" for file in files]), model.predict(inputs, batch_size=8, verbose=0)


@pytest.mark.full
@claim(85, "5.3.1", "the ImageNet class set contains multiple dog and cat classes", "holds", kind="measured")
@claim(86, "5.3.1", "reuse the information contained in the densely connected layers", "holds", kind="measured")
def test_imagenets_own_dogs_and_cats_tell_dogs_from_cats_untrained(
    imagenet_probabilities: tuple[np.ndarray, np.ndarray], evidence: Evidence
) -> None:
    """Its classes 151 to 268 are breeds of dogs, 281 to 285 domestic cats: no training, and about what it reaches.

    The numbers are written down here: Keras gets the names of the classes from the network, and this reads none. That
    they are dogs and cats shows in what they tell of the pictures.
    """
    are_dogs, shares = imagenet_probabilities
    dogs, cats = shares[:, 151:269].sum(axis=1), shares[:, 281:286].sum(axis=1)
    accuracy = np.mean((dogs > cats) == are_dogs)
    evidence(f"{accuracy:.3f} of {len(are_dogs)} pictures right by the 1,000 classes alone")
    assert accuracy > 0.9


@claim(87, "5.3.1", "image-classification models ... available as part of keras.applications", "holds")
def test_the_six_models_of_the_list_come_prepackaged() -> None:
    """Xception, Inception V3, ResNet50, VGG16, VGG19, MobileNet."""
    names = {"xception", "inception_v3", "resnet50", "vgg16", "vgg19", "mobilenet"}
    assert names <= set(models.BASES)
    assert all(hasattr(keras.applications, models.BASES[name].__name__) for name in names)


@claim(88, "5.3.1", "will be able to process inputs of any size", "qualified", source="listing 5.16")
def test_without_an_input_shape_inputs_may_have_any_size_from_32_up() -> None:
    """Five poolings leave nothing of a picture below 32 pixels."""
    base = models.conv_base("vgg16", None, (None, None, 3))
    assert base.compute_output_shape((1, 150, 231, 3)) == (1, 4, 7, 512)
    assert base.compute_output_shape((1, 32, 32, 3)) == (1, 1, 1, 512)
    with pytest.raises(ValueError, match="pool"):
        reduce(pool_output_size, [2] * 5, 31)


@claim(89, "5.3.1", "Total params: 14,714,688", "holds", source="listing 5.16")
@claim(90, "5.3.1", "similar to the simple convnets you’re already familiar with", "qualified")
def test_vgg16_is_that_of_its_summary_in_every_setting_and_pads(vgg16: keras.Model) -> None:
    """Unlike those convnets it pads, and pools after two or three convolutions."""
    blocks = (64, 2), (128, 2), (256, 3), (512, 3), (512, 3)
    assert_builds_as_listed(lambda: models.conv_base(input_shape=(40, 40, 3)), lambda: vgg_by_hand(40, *blocks))
    assert vgg16.output_shape == (None, 4, 4, 512)
    assert vgg16.count_params() == 14_714_688


# 5.3.1: features, recorded


@claim(91, "5.3.1", "this technique won’t allow you to use data augmentation", "refuted")
def test_features_of_augmented_views_can_be_recorded_as_well(tmp_path: Path, rng: np.random.Generator) -> None:
    """As the fast rungs do: a fixed number of views of each picture, each run through the base once."""
    base, batches = mini_base(), mini_batches(6, rng, 3)
    assert find_recipe("feature_extraction", "full").augmentation is None, "the chapter's own way has none"
    views = [View(batches, CHAPTER_AUGMENTATION, 0, number) for number in range(2)]
    recorded = [features.extract(base, view, tmp_path, clock=Clock()) for view in views]
    whole = [view[batch][0] for view in views for batch in range(len(view))]
    expected = base.predict(np.concatenate(whole), verbose=0)
    np.testing.assert_allclose(np.concatenate(recorded), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(recorded[0] - recorded[1]).max() > 0.1 * expected.max(), "each view has features of its own"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.fixture(scope="module")
def costs(vgg16: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of three rounds for one picture through VGG16, and for one epoch of listing 5.18 on 2,000 features."""
    pictures = np.random.default_rng(53).random((2, 150, 150, 3), np.float32)
    maps = np.random.default_rng(53).random((2000, 4, 4, 512), np.float32)
    head = models.feature_classifier((4, 4, 512))
    training.compile_model(head, 2e-5)
    source = stream(Batches(maps, np.arange(2000) % 2, 20, identity), 0)

    def picture() -> None:
        vgg16.predict_on_batch(pictures)

    def epoch(steps: int = 100) -> None:
        for _ in range(steps):
            head.train_on_batch(*next(source))

    picture()
    epoch(2)  # what is compiled is not timed
    rounds = [(seconds(picture) / 2, 4 * seconds(lambda: epoch(25))) for _ in range(3)]
    return np.array(rounds).T[0], np.array(rounds).T[1]


@claim(92, "5.3.1", "this technique is far more expensive than the first", "holds", kind="measured")
@claim(93, "5.3.1", "by far the most expensive part of the pipeline", "holds", kind="measured")
def test_end_to_end_costs_over_ten_times_what_recorded_features_do(
    costs: tuple[np.ndarray, np.ndarray], vgg16: keras.Model, evidence: Evidence
) -> None:
    """30 epochs of 2,000 pictures: seen by the base 60,000 times, or 2,000. By arithmetic 28 times as much, timed in
    turns on one machine: training the head takes longer than its share of the arithmetic.
    """
    base, head = multiply_adds(vgg16), multiply_adds(models.feature_classifier((4, 4, 512)))
    assert base > 3000 * head
    assert 60_000 * (base + 3 * head) / (2000 * base + 60_000 * 3 * head) > 28
    picture, epoch = (float(np.median(side)) for side in costs)
    ratio = (60_000 * picture + 30 * epoch) / (2000 * picture + 30 * epoch)
    evidence(
        f"timed here {ratio:.0f} times as expensive; the base takes {2000 * picture / epoch:.0f} epochs of the head"
    )
    expect(ratio > 10, f"timed here only {ratio:.1f} times as expensive")
    expect(2000 * picture > 10 * epoch, "a pass through the base took less than ten epochs on its features")


@claim(94, "5.3.1", "you must break after every image has been seen once", "holds", source="listing 5.17")
def test_features_are_those_of_listing_5_17_for_each_picture_once(tmp_path: Path, rng: np.random.Generator) -> None:
    """`predict` in batches of 20, of 46 pictures the last of six; the listing's zeros stay where none is left."""
    conv_base, batches = mini_base(), mini_batches(46, rng)
    batch_size, sample_count = 20, 46
    listed, labels = np.zeros((sample_count, 3, 3, 96)), np.zeros(sample_count)
    generator = ImageDataGenerator(rescale=1.0 / 255).flow(
        batches.inputs.astype(np.float32), batches.labels, batch_size=batch_size, shuffle=False
    )
    i = 0
    for inputs_batch, labels_batch in generator:
        listed[i * batch_size : (i + 1) * batch_size] = conv_base.predict(inputs_batch, verbose=0)
        labels[i * batch_size : (i + 1) * batch_size] = labels_batch
        i += 1  # noqa: SIM113
        if i * batch_size >= sample_count:
            break
    recorded = features.extract(conv_base, batches, tmp_path, clock=Clock())
    np.testing.assert_allclose(recorded, listed, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(batches.labels, labels)


@claim(95, "5.3.1", "first you must flatten them to (samples, 8192)", "holds")
def test_features_flatten_to_8192_in_the_order_of_a_flatten_layer(vgg16: keras.Model, rng: np.random.Generator) -> None:
    """After listing 5.17: `np.reshape(train_features, (2000, 4 * 4 * 512))`."""
    maps = rng.random((2, *vgg16.output_shape[1:])).astype(np.float32)
    flat = np.reshape(maps, (2, 4 * 4 * 512))
    whole, head = models.feature_classifier((4, 4, 512)), models.feature_classifier((8192,))
    head.set_weights(whole.get_weights())
    np.testing.assert_allclose(whole.predict(maps, verbose=0), head.predict(flat, verbose=0), rtol=1e-5)


@claim(96, "5.3.1", "an epoch takes less than one second even on CPU", "qualified", kind="measured")
def test_an_epoch_on_features_takes_as_long_as_few_pictures_in_the_base(
    costs: tuple[np.ndarray, np.ndarray], evidence: Evidence
) -> None:
    """How many seconds that is depends on the machine: recorded, on two cores, 1.1 to 1.3 with validation. The work
    does not: by arithmetic that of two pictures in the base, as a step multiplies three times as often as a prediction.
    """
    base, head = multiply_adds(models.conv_base()), multiply_adds(models.feature_classifier((4, 4, 512)))
    assert 1.5 < 3 * 2000 * head / base < 2.5
    picture, epoch = (float(np.median(side)) for side in costs)
    evidence(f"an epoch took {epoch:.2f} s here, as long as {epoch / picture:.0f} pictures in the base")
    assert epoch < 2000 * picture, "one pass over the pictures"
    expect(epoch < 100 * picture, f"an epoch took as long as {epoch / picture:.0f} pictures, not a twentieth of 2,000")


@claim(100, "5.3.1", "it’s absolutely intractable on CPU", "refuted", kind="recorded")
def test_30_epochs_end_to_end_fit_into_a_day_on_the_recorded_processor(evidence: Evidence) -> None:
    """Recorded on two cores, at the lowest priority beside other work."""
    for run in recorded_runs("full", "CPU")["frozen_end_to_end"]:
        hours = (run.seconds["train"] + run.seconds["validate"]) / 3600
        evidence(f"{hours:.1f} h for 30 epochs on {run.machine['threads']} threads, beside other work")
        assert hours < 24


# 5.3.1: end to end


@claim(104, "5.3.1", "after freezing the conv base: 4", "holds")
@claim(104.2, "5.3.1", "a total of four weight tensors: two per layer", "holds")
def test_of_30_trainable_tensors_freezing_leaves_the_heads_4() -> None:
    """VGG16's 26, and a matrix and a bias vector of each Dense layer."""
    conv_base = models.conv_base(input_shape=(48, 48, 3))
    model = models.end_to_end(conv_base)
    assert len(model.trainable_weights) == 30
    models.freeze(conv_base)
    assert len(model.trainable_weights) == 4
    assert [[len(weight.shape) for weight in layer.trainable_weights] for layer in model.layers[-2:]] == [[2, 1]] * 2


@claim(104.4, "5.3.1", "recompile the model, or these changes will be ignored", "qualified")
def test_a_change_of_trainable_after_compilation_is_refused_not_ignored(rng: np.random.Generator) -> None:
    """By the package; Keras itself ignores it once training began, as the next test shows."""
    base = mini_base()
    model = models.end_to_end(base)
    training.compile_model(model, 1e-5)
    models.freeze(base)
    with pytest.raises(BadInput, match="changed after compilation; compile the model again"):
        training.fit(model, stream(mini_batches(4, rng, 2), 0), 1, 1, None, clock=Clock(), history={})


@claim(104.4, "5.3.1", "recompile the model, or these changes will be ignored", "qualified")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends look at `trainable` otherwise")
def test_keras_ignores_a_change_of_trainable_once_training_has_begun(rng: np.random.Generator) -> None:
    """Before the first step it heeds the change, without compilation: by that step what is trained is fixed."""
    base, batches = mini_base(), mini_batches(4, rng, 2)
    model = models.end_to_end(base)

    def base_moves() -> bool:
        before = base.get_weights()
        model.fit(batches, verbose=0)
        return not all(map(np.array_equal, before, base.get_weights()))

    training.compile_model(model, 1e-3)
    base.trainable = False
    assert not base_moves(), "heeded before the first step"
    base.trainable = True
    assert not base_moves(), "ignored after it"
    training.compile_model(model, 1e-3)
    assert base_moves(), "heeded once compiled again"
    base.trainable = False
    assert base_moves(), "ignored, the other way round, too"


# 5.3.2: fine-tuning


def listing_5_24(points: list[float], factor: float = 0.8) -> list[float]:
    smoothed_points: list[float] = []
    for point in points:
        if smoothed_points:
            previous = smoothed_points[-1]
            smoothed_points.append(previous * factor + point * (1 - factor))
        else:
            smoothed_points.append(point)
    return smoothed_points


@claim(114, "5.3.2", "To make them more readable, you can smooth them", "holds", source="listing 5.24")
def test_the_moving_average_is_listing_5_24s_and_makes_noise_a_third(rng: np.random.Generator) -> None:
    """With factor 0.8 the variance of noise falls to (1 - 0.8) / (1 + 0.8) = 1/9."""
    noise = rng.normal(size=20_000).tolist()
    smoothed = training.smooth_curve(noise)
    assert smoothed == listing_5_24(noise)
    assert training.smooth_curve(noise, 0.5) == listing_5_24(noise, 0.5)
    assert np.std(smoothed) / np.std(noise) == pytest.approx(1 / 3, abs=0.02)


@claim(114, "5.3.2", "To make them more readable, you can smooth them", "holds", source="listing 5.24")
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_chart_of_a_long_run_has_the_smoothed_curves_of_both_parts(metric: str) -> None:
    """As listing 5.24 plots them, training and validation; and as dots the raw values of listing 5.19."""
    run = result_with_history("fine_tuned", "full", 0.97)
    (axes,) = charts.curve([run], metric).axes
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines if line.get_marker() == "None"}
    dots = [np.asarray(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    for place, (part, name) in enumerate((("training", metric), ("validation", f"val_{metric}"))):
        np.testing.assert_allclose(drawn[part], listing_5_24(run.history[name]))
        np.testing.assert_allclose(dots[place], run.history[name])


@claim(114.5, "5.3.2", "from about 96% to above 97%", "refuted", source="figure 5.22")
def test_a_smoothed_curve_lags_behind_so_its_end_understates_a_rise() -> None:
    """It is read off curves that trail by 4 epochs."""
    rise = np.arange(100.0)
    assert rise[-1] - training.smooth_curve(rise.tolist())[-1] == pytest.approx(4)


@claim(115, "5.3.2", "accuracy is the result of a binary thresholding", "holds")
def test_accuracy_can_improve_while_the_average_loss_gets_worse() -> None:
    """The loss comes of averaging; here 3 of 4 right against 2."""
    labels = np.array([[0], [0], [1], [1]])
    before, after = np.array([[0.4], [0.6], [0.6], [0.4]]), np.array([[0.4], [0.4], [0.6], [0.01]])
    right = [np.mean(training.predicted_classes(p) == labels[:, 0]) for p in (before, after)]
    loss = [float(keras.ops.mean(keras.losses.binary_crossentropy(labels, p))) for p in (before, after)]
    assert right == [0.5, 0.75]
    assert loss[1] > loss[0]


@claim(118, "5.3.2", "a huge difference between ... 20,000 samples compared to 2,000", "qualified", kind="measured")
def test_a_tenth_of_the_digits_makes_more_than_half_as_many_errors_again(evidence: Evidence) -> None:
    """Of 900 real digits, not of 20,000 dogs and cats, which no run here has: by chapter 2's network, for either of two
    seeds, with as many steps from all as from a tenth.
    """
    digits = load_dataset("digits", 28)
    train, test = digits.train, as_batches(digits.test.images, digits.test.labels)
    learner = Learner(lambda: models.dense_baseline((28, 28, 1)))
    errors = np.zeros((2, 2))
    for place, seed in itertools.product(range(2), range(2)):
        chosen = np.random.default_rng(seed).permutation(len(train))[: len(train) // (10, 1)[place]]
        learner.train(as_batches(train.images[chosen], train.labels[chosen]), seed, 200)
        errors[place, seed] = 1 - learner.accuracy(test)
    few, many = errors.mean(axis=1)
    evidence(f"{few:.3f} wrong from {len(train) // 10} digits, {many:.3f} from {len(train):,}")
    assert (errors[0] > 1.5 * errors[1]).all()
