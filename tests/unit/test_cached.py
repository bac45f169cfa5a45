"""What is frozen need see each picture once: training on its recorded output is the same computation."""

import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import BadInput, features, models, training
from convspec.arithmetic import dense_parameters
from convspec.data import batches as batches_module
from convspec.data.batches import Batches, View, identity, rescale
from convspec.data.datasets import Dataset
from convspec.ladder.recipe import Mode, Scale
from convspec.ladder.result import Result
from convspec.ladder.run import run_recipe
from convspec.ladder.rungs import CHAPTER_AUGMENTATION, RUNGS, find_recipe, select_recipes
from convspec.progress import Clock

FAST = [recipe.name for recipe in select_recipes("mini", "fast") if recipe.name.endswith("_fast")]


@pytest.fixture
def pictures(few_shapes: Dataset) -> Batches:
    return Batches(few_shapes.train.images, few_shapes.train.labels, 8, rescale)


def end_to_end(thaw: str | None) -> tuple[keras.Model, keras.Model]:
    """The mini base with a fresh head, the same every time, and the base in it."""
    keras.utils.set_random_seed(0)
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    model = models.end_to_end(base)
    if thaw:
        models.thaw_from(base, thaw)
    else:
        models.freeze(base)
    return model, base


def cached(
    thaw: str | None, pictures: Batches, views: int, folder: Path
) -> tuple[keras.Model, keras.Model, list[Batches]]:
    """The same model, what is trained of it, and what that is trained on."""
    model, base = end_to_end(thaw)
    trunk, top = models.cut_before(base, thaw) if thaw else (base, None)
    trained = keras.Sequential([keras.Input(trunk.output_shape[1:]), *([top] if top else []), *model.layers[1:]])
    passes = []
    for number in range(views):
        view = View(pictures, CHAPTER_AUGMENTATION, 0, number)
        found = features.extract(trunk, view, folder, clock=Clock())
        passes.append(Batches(found, pictures.labels, pictures.batch_size, identity))
    return model, trained, passes


def test_a_view_shows_each_picture_as_training_sees_it_in_that_pass(pictures: Batches) -> None:
    count = len(pictures.labels)
    numbered = Batches(pictures.inputs, np.arange(count), count, rescale)
    stream = batches_module.stream(numbered, 5, CHAPTER_AUGMENTATION)
    for number in range(3):
        inputs, order = next(stream)
        view = View(numbered, CHAPTER_AUGMENTATION, 5, number)
        shown, labels = view[0]
        np.testing.assert_array_equal(shown[order], inputs)
        np.testing.assert_array_equal(labels, np.arange(count))


def test_the_batches_of_a_view_are_its_pictures_in_order(pictures: Batches) -> None:
    view = View(pictures, CHAPTER_AUGMENTATION, 0, 0)
    whole = View(
        Batches(pictures.inputs, pictures.labels, len(pictures.labels), rescale),
        CHAPTER_AUGMENTATION, 0, 0,
    )  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([view[batch][0] for batch in range(len(view))]), whole[0][0])
    np.testing.assert_array_equal(np.concatenate([view[batch][1] for batch in range(len(view))]), pictures.labels)


def test_views_are_shown_in_turn_one_a_pass() -> None:
    views = [Batches(np.full((4, 1), number), np.zeros(4), 4, identity) for number in range(3)]
    stream = batches_module.stream(views, 0)
    assert [int(next(stream)[0][0, 0]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("layer", [layer.name for layer in models.conv_base("mini", None, (48, 48, 3)).layers[1:]])
def test_before_the_cut_and_from_it_on_are_together_the_base(layer: str) -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    trunk, top = models.cut_before(base, layer)
    batch = np.random.default_rng(0).random((4, 48, 48, 3), np.float32)
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (top(trunk(batch)), base(batch))))
    assert top.layers[1].name == layer
    assert trunk.count_params() + top.count_params() == base.count_params()


def test_a_cut_that_another_path_goes_around_is_refused() -> None:
    base = models.conv_base("resnet50", None, (32, 32, 3))
    with pytest.raises(BadInput, match="resnet50 cannot be cut before 'conv5_block1_2_conv', which is not on every"):
        models.cut_before(base, "conv5_block1_2_conv")


def test_a_cut_before_an_unknown_layer_is_refused_with_the_list_of_layers() -> None:
    with pytest.raises(BadInput, match=r"mini has no layer 'block9'; choose from .*block1_conv1"):
        models.cut_before(models.conv_base("mini", None, (48, 48, 3)), "block9")


@pytest.mark.parametrize("thaw", [None, "block4_conv1", "block3_conv1"])
def test_loss_and_gradients_are_those_of_the_literal_model(thaw: str | None, pictures: Batches, tmp_path: Path) -> None:
    """A step of plain gradient descent at rate 1 moves each weight by its gradient, on every backend."""
    found = []
    for literal in (True, False):
        model, trained, passes = cached(thaw, pictures, 1, tmp_path)
        source = View(pictures, CHAPTER_AUGMENTATION, 0, 0) if literal else passes[0]
        trainee = model if literal else trained
        trainee.compile(optimizer=keras.optimizers.SGD(1.0), loss="binary_crossentropy")
        before = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        loss = float(trainee.train_on_batch(*source[0]))
        after = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        gradients = [old - new for old, new in zip(before, after, strict=True)]
        found.append((loss, gradients))
    (loss, gradients), (cached_loss, cached_gradients) = found
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(cached_gradients, gradients, strict=True):
        scale = np.abs(theirs).max()
        assert scale > 0
        # The weights themselves, of up to 1, are rounded to 6e-8 before they are subtracted.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale + 2e-7)


@pytest.mark.parametrize("thaw", [None, "block4_conv1", "block3_conv1"])
def test_after_20_steps_the_weights_are_those_of_the_literal_model(
    thaw: str | None, pictures: Batches, tmp_path: Path
) -> None:
    found = []
    for literal in (True, False):
        model, trained, passes = cached(thaw, pictures, 4, tmp_path)  # 20 batches of 8 are four passes of 40
        trainee = model if literal else trained
        stream = (
            batches_module.stream(pictures, 0, CHAPTER_AUGMENTATION) if literal else batches_module.stream(passes, 0)
        )
        training.compile_model(trainee, 1e-4)
        training.fit(trainee, stream, 1, 20, None, clock=Clock(), history={})
        found.append([keras.ops.convert_to_numpy(variable) for variable in model.variables])
    for literal_weights, cached_weights in zip(*found, strict=True):
        np.testing.assert_allclose(cached_weights, literal_weights, rtol=0, atol=1e-4)


def test_a_linear_probe_reads_mean_and_maximum_of_each_feature_map() -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    probe = models.linear_probe(base, 48)
    batch = np.random.default_rng(0).random((2, 48, 48, 3), np.float32)
    maps = keras.ops.convert_to_numpy(base(batch))
    pooled = keras.Model(probe.input, probe.get_layer("pooled").output).predict(batch, verbose=0)
    np.testing.assert_allclose(pooled, np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1), 1e-5)


def test_a_linear_probe_at_two_sizes_has_the_features_of_both() -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (None, None, 3))
    probe = models.linear_probe(base, 64, extra_sizes=(48,))
    large = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    small = keras.ops.convert_to_numpy(keras.ops.image.resize(large, (48, 48), antialias=True))
    pooled = keras.Model(probe.input, probe.get_layer("pooled").output).predict(large, verbose=0)
    maps = [keras.ops.convert_to_numpy(base(pictures)) for pictures in (large, small)]
    expected = [pool(seen, axis=(1, 2)) for seen in maps for pool in (np.mean, np.max)]
    np.testing.assert_allclose(pooled, np.concatenate(expected, axis=1), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_probe_ends_in_one_linear_layer_on_twice_the_feature_maps(classes: int) -> None:
    base = models.conv_base("mini", None, (48, 48, 3))
    for count in (classes, classes + 1):
        probe, units = models.linear_probe(base, 48, count), 1 if count == 2 else count
        assert probe.count_params() - base.count_params() == dense_parameters(2 * 96, units)


def probe_data(classes: int) -> tuple[Batches, Batches]:
    """Overlapping clouds of points, one a class."""
    generator = np.random.default_rng(classes)
    centres = generator.normal(size=(classes, 6))
    parts = []
    for count in (90, 60):
        labels = np.arange(count) % classes
        points = (centres[labels] + generator.normal(size=(count, 6))).astype(np.float32)
        parts.append(Batches(points, labels, 10, identity))
    return parts[0], parts[1]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fitted_layer_computes_what_its_history_says(classes: int) -> None:
    train, validation = probe_data(classes)
    units = 1 if classes == 2 else classes
    head = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(units, activation="sigmoid" if units == 1 else "softmax")]
    )
    history = training.fit_linear(head.layers[-1], train, validation)
    training.compile_model(head, 1e-3)
    for prefix, batches in (("", train), ("val_", validation)):
        loss, accuracy = head.evaluate(batches, verbose=0)
        assert history[f"{prefix}loss"] == [pytest.approx(loss, rel=1e-4)], f"{prefix}loss"
        assert history[f"{prefix}accuracy"] == [pytest.approx(accuracy)], f"{prefix}accuracy"


def test_the_penalty_is_the_one_that_does_best_on_the_validation_pictures() -> None:
    train, validation = probe_data(2)
    losses = {}
    for penalties in [training.PENALTIES, *((penalty,) for penalty in training.PENALTIES)]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "PENALTIES", penalties)
            head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid")])
            losses[penalties] = training.fit_linear(head.layers[-1], train, validation)["val_loss"]
    best = losses.pop(training.PENALTIES)
    assert best == min(losses.values()), "the best of all penalties"
    assert len(set(map(tuple, losses.values()))) == len(losses), "each penalty should give another fit"


@pytest.mark.parametrize("mode", ["literal", "fast", "both"])
def test_a_mode_climbs_the_ladder_in_its_order(mode: Mode) -> None:
    names = [recipe.name for recipe in select_recipes("mini", mode)]
    assert list(dict.fromkeys(name.removesuffix("_fast") for name in names)) == list(RUNGS)
    with_base = [rung for rung in RUNGS if find_recipe(rung, "mini").base]
    assert [name for name in names if name.endswith("_fast")] == (
        [] if mode == "literal" else [f"{rung}_fast" for rung in with_base]
    )
    assert len(names) == len(RUNGS) + (len(with_base) if mode == "both" else 0)


def test_a_chosen_rung_is_climbed_in_the_form_of_the_mode() -> None:
    assert [recipe.name for recipe in select_recipes("full", "both", ["fine_tuned"])] == [
        "fine_tuned",
        "fine_tuned_fast",
    ]
    assert [recipe.name for recipe in select_recipes("full", "fast", ["fine_tuned", "augmented"])] == [
        "augmented",
        "fine_tuned_fast",
    ]


def test_a_recipe_that_is_no_rung_is_climbed_when_it_is_named() -> None:
    names = [
        recipe.name for recipe in select_recipes("full", "both", ["feature_extraction_best", "feature_extraction"])
    ]
    assert names == ["feature_extraction", "feature_extraction_fast", "feature_extraction_best"]


def test_a_probe_at_two_sizes_runs_like_any_recipe(few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = replace(find_recipe("feature_extraction_fast", "mini"), extra_sizes=(32,))
    result = run_recipe(recipe, few_shapes, 0, tmp_path)
    assert result.base_pictures == 2 * (40 + 19 + 20)
    assert result.test_accuracy > 0.8


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("rung", ["frozen_end_to_end", "fine_tuned"])
def test_the_fast_form_of_a_rung_differs_from_the_listings_in_what_an_expert_would_change(
    rung: str, scale: Scale
) -> None:
    """Pictures by area, the base's own preprocessing and its frozen part once a view; and fewer epochs of fine-tuning
    at full, where each costs two cores the better part of a minute.
    """
    literal, fast = find_recipe(rung, scale), find_recipe(f"{rung}_fast", scale)
    changed = {field.name for field in fields(fast) if getattr(fast, field.name) != getattr(literal, field.name)}
    ours = {"name", "interpolation", "preprocessing", "precision", "views", "published"}
    if rung == "fine_tuned":
        ours |= {"starts_from"} | ({"epochs"} if scale == "full" else set())
    assert changed == ours
    assert (literal.preprocessing, fast.preprocessing) == ("rescale", "base")
    assert 0 < fast.views < fast.epochs <= literal.epochs


@pytest.mark.parametrize("rung", FAST)
def test_a_fast_rung_saves_a_whole_model_that_predicts_what_the_result_says(
    rung: str, few_shapes: Dataset, tmp_path: Path
) -> None:
    recipe = replace(find_recipe(rung, "mini"), epochs=2)
    if recipe.starts_from:
        recipe = replace(recipe, starts_from=replace(recipe.starts_from, epochs=1))
    result = run_recipe(recipe, few_shapes, 0, tmp_path)
    files = list((tmp_path / "models").glob(f"{rung}-*.keras"))
    model = keras.models.load_model(files[0])
    prepared = models.PREPROCESSING["mini"](few_shapes.test.images.astype(np.float32))
    probabilities = model.predict(prepared, verbose=0)
    # bfloat16 has 8 binary digits, and the features were kept in float16.
    np.testing.assert_allclose(training.confidence(probabilities), result.confidence, atol=0.02)


@pytest.mark.parametrize(
    ("rung", "expected"),
    [
        # 40 pictures for training, 19 for validation after each of 2 epochs, 20 for the test; 2 views
        ("frozen_end_to_end", 2 * (40 + 19) + 20),
        ("frozen_end_to_end_fast", 2 * 40 + 19 + 20),
        ("feature_extraction", 40 + 19 + 20),
        ("feature_extraction_fast", 40 + 19 + 20),
        ("from_scratch", None),
    ],
)
def test_the_result_counts_the_pictures_that_went_through_the_base(
    rung: str, expected: int | None, few_shapes: Dataset, tmp_path: Path
) -> None:
    recipe = replace(find_recipe(rung, "mini"), epochs=2, batch_size=8)
    assert run_recipe(recipe, few_shapes, 0, tmp_path).base_pictures == expected


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from convspec import datasets, recipes, training

training.CHECKPOINT_EVERY = 0.0  # after every epoch, so that there is something to go on from
whole = datasets.load_dataset("shapes", 48, Path())
three = whole.train, whole.validation, whole.test
parts = [datasets.Split(part.images[::5], part.labels[::5], part.names[::5]) for part in three]
few = datasets.Dataset(whole.name, whole.classes, *parts)
recipe = recipes.find_recipe("fine_tuned_fast", "mini")
frozen = replace(recipe.starts_from, precision="float32")  # not what each process measures to be the faster one
recipe = replace(recipe, epochs=30, precision="float32", starts_from=frozen)
print("ready", flush=True)
recipes.run(recipe, few, 0, Path(sys.argv[1])).save(Path(sys.argv[1], "result.json"))
print("done", flush=True)
"""


def run_and_kill(folder: Path, after: float | None) -> bool:
    """Whether the run was killed before it ended."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    if after is not None:
        time.sleep(after)
        process.kill()
    return "done" not in process.communicate()[0]


def stores(folder: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in (folder / "features").glob("*/features.npy")}


@pytest.mark.slow
def test_after_kill_9_at_20_random_moments_cached_training_ends_as_if_undisturbed(tmp_path: Path) -> None:
    start = time.perf_counter()
    run_and_kill(tmp_path / "whole", None)
    most = 0.8 * (time.perf_counter() - start)
    whole = Result.load(tmp_path / "whole" / "result.json")
    moments, killed, resumed = np.random.default_rng(0), 0, False
    while killed < 20:
        killed += run_and_kill(tmp_path / "killed", moments.uniform(0, most))
        resumed |= any((tmp_path / "killed" / "checkpoints").glob("*.npz"))
        for file in (tmp_path / "killed").glob("result.json"):
            assert Result.load(file).confidence == whole.confidence, "under its own name it must be whole"
    run_and_kill(tmp_path / "killed", None)
    again = Result.load(tmp_path / "killed" / "result.json")
    assert resumed, "no kill found a checkpoint to go on from"
    assert stores(tmp_path / "killed") == stores(tmp_path / "whole")
    assert again.history == whole.history
    assert (again.predicted, again.confidence) == (whole.predicted, whole.confidence)
