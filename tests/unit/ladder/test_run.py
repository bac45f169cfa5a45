"""The rungs: the chapter's figures as data, and what one function makes of them."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import BadInput, models, progress, training
from convspec.data import batches
from convspec.data.augmentation import Augmentation
from convspec.data.datasets import Dataset, Split
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import run, run_key
from convspec.ladder.rungs import RECIPES, RUNGS, find_recipe

# Each kind of rung in the fast tier, and those that differ from one of them in data alone in the slow one.
EACH_RUNG = pytest.mark.parametrize(
    "rung",
    [
        pytest.param(
            rung,
            marks=pytest.mark.slow
            if rung in ("dense_baseline", "from_scratch", "frozen_end_to_end", "fine_tuned_fast")
            else (),
        )
        for rung in (*RUNGS, "fine_tuned_fast")
    ],
)


def short(rung: str) -> Recipe:
    """The mini rung cut to two epochs, and its predecessor to one."""
    recipe = find_recipe(rung, "mini")
    before = replace(recipe.starts_from, epochs=1) if recipe.starts_from else None
    return replace(recipe, epochs=2, starts_from=before)


@pytest.mark.parametrize(
    ("rung", "learning_rate", "epochs", "steps", "batch_size"),
    [
        ("mnist_convnet", 1e-3, 5, None, 64),
        ("dense_baseline", 1e-3, 5, None, 128),
        ("from_scratch", 1e-4, 30, 100, 20),
        ("augmented", 1e-4, 100, 100, 32),
        ("feature_extraction", 2e-5, 30, 100, 20),
        ("frozen_end_to_end", 2e-5, 30, 100, 20),
        ("fine_tuned", 1e-5, 100, 100, 20),
    ],
)
def test_the_full_schedule_is_the_listings(
    rung: str, learning_rate: float, epochs: int, steps: int | None, batch_size: int
) -> None:
    recipe = find_recipe(rung, "full")
    found = (recipe.learning_rate, recipe.epochs, recipe.steps, recipe.batch_size)
    assert found == (learning_rate, epochs, steps, batch_size)


def test_only_the_rungs_of_listings_5_14_5_21_and_5_23_augment_and_all_alike() -> None:
    chapter = Augmentation(40, 0.2, 0.2, 0.2, 0.2, horizontal_flip=True, fill_mode="nearest")
    augmentations = {name: find_recipe(name, "full").augmentation for name in RUNGS}
    augmented = ("augmented", "frozen_end_to_end", "fine_tuned")
    assert augmentations == {name: chapter if name in augmented else None for name in RUNGS}


def test_fine_tuning_goes_on_from_the_frozen_rung_and_thaws_block5() -> None:
    fine_tuned = find_recipe("fine_tuned", "full")
    assert fine_tuned.starts_from == find_recipe("frozen_end_to_end", "full")
    assert (fine_tuned.base, fine_tuned.thaw) == ("vgg16", "block5_conv1")


def test_both_scales_have_the_same_seven_rungs_in_the_chapters_order() -> None:
    assert [name for name in RECIPES["mini"] if not name.endswith("_fast")] == list(RUNGS)
    assert list(RECIPES["mini"]) == list(RECIPES["full"])[: len(RECIPES["mini"])]
    assert len(RUNGS) == 7


def test_an_unknown_rung_is_refused_with_the_list_of_rungs() -> None:
    with pytest.raises(BadInput, match=r"unknown rung 'fine_tune' at scale mini; choose from .*fine_tuned"):
        find_recipe("fine_tune", "mini")


@EACH_RUNG
def test_the_same_seed_gives_the_same_result_to_the_last_digit(rung: str, few_shapes: Dataset, tmp_path: Path) -> None:
    first, again = (run(short(rung), few_shapes, 3, tmp_path / folder) for folder in ("first", "again"))
    assert first.history == again.history
    assert (first.predicted, first.confidence) == (again.predicted, again.confidence)


def test_another_seed_gives_another_result(few_shapes: Dataset, tmp_path: Path) -> None:
    one, other = (run(short("from_scratch"), few_shapes, seed, tmp_path) for seed in (0, 1))
    assert one.history["loss"] != other.history["loss"]


@pytest.mark.parametrize("rung", RUNGS)
def test_the_saved_model_loads_and_predicts_what_the_result_says(
    rung: str, few_shapes: Dataset, tmp_path: Path
) -> None:
    result = run(short(rung), few_shapes, 0, tmp_path)
    model = keras.models.load_model(tmp_path / "models" / f"{run_key(short(rung), few_shapes, 0)}.keras")
    probabilities = model.predict(batches.rescale(few_shapes.test.images.astype(np.float32)), verbose=0)
    assert training.predicted_classes(probabilities).tolist() == result.predicted
    # Results keep four digits; another batch size may add the products in another order.
    np.testing.assert_allclose(training.confidence(probabilities), result.confidence, atol=1e-4)


def test_a_run_that_was_interrupted_goes_on_and_ends_as_if_it_had_not_been(
    few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(find_recipe("augmented", "mini"), epochs=4)
    unbroken = run(recipe, few_shapes, 0, tmp_path / "unbroken")

    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    save, saved = training.Checkpoint.save, []

    def interrupted(
        self: training.Checkpoint, model: keras.Model, history: training.History, clock: progress.Clock
    ) -> None:
        save(self, model, history, clock)
        saved.append(len(history["loss"]))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, few_shapes, 0, tmp_path / "broken")
    resumed = run(recipe, few_shapes, 0, tmp_path / "broken")
    assert saved == [1, 2, 3, 4], "two epochs, then the other two"
    assert resumed.history == unbroken.history
    assert resumed.confidence == unbroken.confidence
    assert not list((tmp_path / "broken" / "checkpoints").iterdir()), "a finished run needs no checkpoint"


def test_the_result_tells_right_from_wrong_for_every_test_picture(few_shapes: Dataset, tmp_path: Path) -> None:
    result = run(short("from_scratch"), few_shapes, 0, tmp_path)
    right = [given == label for given, label in zip(result.predicted, result.test_labels, strict=True)]
    assert result.test_accuracy == sum(right) / len(right)
    assert result.test_names == list(few_shapes.test.names)
    assert all(0.5 <= confidence <= 1 for confidence in result.confidence)


def test_a_result_survives_being_saved_and_loaded(few_shapes: Dataset, tmp_path: Path) -> None:
    result = run(short("fine_tuned"), few_shapes, 0, tmp_path)
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == result


@pytest.mark.parametrize("content", ["", "{", "[]", '{"recipe": {}}', '{"seed": 1}'])
def test_a_damaged_result_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(BadInput, match=r"result.json' is not a saved result"):
        Result.load(tmp_path / "result.json")


def test_the_result_holds_everything_needed_to_repeat_it_and_no_path_of_this_machine(
    few_shapes: Dataset, tmp_path: Path
) -> None:
    result = run(short("feature_extraction"), few_shapes, 0, tmp_path)
    content = json.loads(json.dumps(result.as_dict()))
    assert content["recipe"]["learning_rate"] == 1e-4
    assert content["dataset"]["fingerprint"] == few_shapes.fingerprint
    assert content["machine"]["versions"].keys() >= {"python", "keras", "numpy", "convspec", keras.backend.backend()}
    assert result.weights is not None
    assert result.weights.startswith("mini_base.weights.h5 sha256:")
    assert str(tmp_path) not in json.dumps(content)
    assert str(Path(models.__file__).parent) not in json.dumps(content)


def test_every_phase_of_a_run_is_timed(few_shapes: Dataset, tmp_path: Path) -> None:
    seconds = run(short("feature_extraction"), few_shapes, 0, tmp_path).seconds
    assert set(seconds) == {"build", "features", "compile", "train", "validate", "input", "evaluate", "save"}
    assert all(value >= 0 for value in seconds.values())
    assert seconds["features"] > 0


def test_frozen_tensors_stay_bit_for_bit_and_thawed_ones_move(few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = short("fine_tuned")
    run(recipe, few_shapes, 0, tmp_path)
    before, after = (
        keras.models.load_model(tmp_path / "models" / f"{run_key(which, few_shapes, 0)}.keras").get_layer("mini")
        for which in (recipe.starts_from, recipe)
        if which
    )
    pretrained = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    for layer in pretrained.layers[1:]:
        for original, frozen, tuned in zip(
            layer.get_weights(),
            before.get_layer(layer.name).get_weights(),
            after.get_layer(layer.name).get_weights(),
            strict=True,
        ):
            assert np.array_equal(original, frozen), f"{layer.name} moved though the base was frozen"
            moved = not np.array_equal(frozen, tuned)
            assert moved == layer.name.startswith(("block3", "block4")), f"{layer.name}: thawed from block3_conv1"


def test_fine_tuning_starts_with_the_head_that_the_frozen_rung_trained(few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = replace(short("fine_tuned"), learning_rate=0.0)
    assert recipe.starts_from
    before = run(recipe.starts_from, few_shapes, 0, tmp_path)
    after = run(recipe, few_shapes, 0, tmp_path)
    assert after.confidence == before.confidence, (
        "at a learning rate of 0 it must still have the head of the frozen rung"
    )


def test_validation_is_measured_on_the_validation_pictures_by_the_model_as_it_was_then(
    few_shapes: Dataset, tmp_path: Path
) -> None:
    result = run(short("from_scratch"), few_shapes, 0, tmp_path)
    model = keras.models.load_model(tmp_path / "models" / f"{run_key(short('from_scratch'), few_shapes, 0)}.keras")
    assert few_shapes.validation is not None
    key = model.predict(batches.rescale(few_shapes.validation.images.astype(np.float32)), verbose=0)[:, 0]
    loss = -np.log(np.where(few_shapes.validation.labels == 1, key, 1 - key)).mean()
    assert result.history["val_loss"][-1] == pytest.approx(loss, rel=1e-4), "val_loss is not that of these pictures"


def test_features_are_computed_once_and_shared_by_the_seeds(
    few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(short("feature_extraction"), few_shapes, 0, tmp_path)
    monkeypatch.setattr(keras.Model, "predict_on_batch", None)  # the base must not run again
    second = run(short("feature_extraction"), few_shapes, 1, tmp_path)
    assert second.seconds["features"] == pytest.approx(first.seconds["features"], abs=2e-3)


@pytest.mark.parametrize("change", ["recipe", "pictures", "seed", "weights"])
def test_runs_that_can_differ_never_share_a_name(change: str, few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = find_recipe("feature_extraction", "mini")
    other = tmp_path / "other.weights.h5"
    models.conv_base("mini", None, (48, 48, 3)).save_weights(other)
    test = few_shapes.test
    pictures = replace(few_shapes, test=Split(255 - test.images, test.labels, test.names))
    arguments = {
        "recipe": (replace(recipe, dropout=0.4), few_shapes, 0),
        "pictures": (recipe, pictures, 0),
        "seed": (recipe, few_shapes, 1),
        "weights": (recipe, few_shapes, 0, other),
    }
    assert run_key(*arguments[change]) != run_key(recipe, few_shapes, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("rung", ["dense_baseline", "mnist_convnet", "from_scratch", "feature_extraction"])
def test_three_classes_and_grey_pictures_run_as_well(rung: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        pictures = rng.integers(0, 256, (count, 48, 48, 1), np.uint8)
        return Split(pictures, np.arange(count) % 3, tuple(f"{i}" for i in range(count)))

    result = run(short(rung), Dataset("grey", ("a", "b", "c"), split(24), None, split(9)), 0, tmp_path)
    assert set(result.predicted) <= {0, 1, 2}
    assert len(result.predicted) == 9
    assert result.validation_accuracy is None


def test_grey_pictures_reach_the_base_rescaled_in_three_equal_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        pictures = rng.integers(0, 256, (count, 48, 48, 1), np.uint8)
        return Split(pictures, np.arange(count) % 2, tuple(f"{i}" for i in range(count)))

    grey = Dataset("grey", ("a", "b"), split(12), None, split(8))
    result = run(short("feature_extraction"), grey, 0, tmp_path)
    model = keras.models.load_model(tmp_path / "models" / f"{run_key(short('feature_extraction'), grey, 0)}.keras")
    pictures = np.repeat(batches.rescale(grey.test.images.astype(np.float32)), 3, axis=-1)
    found = training.confidence(model.predict(pictures, verbose=0))
    np.testing.assert_allclose(found, result.confidence, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("rung", ["augmented", "frozen_end_to_end", "fine_tuned"])
def test_the_long_rungs_take_their_first_steps_on_the_real_pictures(
    rung: str, dogs_and_weights: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dogs, weights = dogs_and_weights
    recipe = find_recipe(rung, "full")
    before = replace(recipe.starts_from, epochs=1, steps=2) if recipe.starts_from else None
    result = run(replace(recipe, epochs=1, steps=2, starts_from=before), dogs, 0, tmp_path, weights=weights)
    assert len(result.predicted) == len(dogs.test)
    assert np.isfinite(result.history["loss"]).all()
