"""What `run_recipe` returns, saves and resumes."""

import errno
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import keras
import numpy as np
import pytest
from builders import short_recipe

from convspec import BadInput, files, models, progress, training
from convspec.data.batches import rescale
from convspec.data.datasets import Dataset, Split
from convspec.files import lock
from convspec.ladder import run as run_module
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import ARCHITECTURES, Run, run_key, run_recipe, train_once
from convspec.ladder.rungs import RECIPES, RUNGS, find_recipe

# Each kind of rung in the fast tier, and those that differ from one of them in data alone in the slow one.
SLOW = ("dense_baseline", "from_scratch", "frozen_end_to_end", "fine_tuned_fast")


def by_speed(rungs: Iterable[str], *slow: str) -> list[Any]:
    return [pytest.param(rung, marks=pytest.mark.slow if rung in SLOW + slow else ()) for rung in rungs]


def load_model(folder: Path, recipe: Recipe, dataset: Dataset) -> keras.Model:
    return keras.models.load_model(folder / "models" / f"{run_key(recipe, dataset, 0)}.keras")


def grey_dataset() -> Dataset:
    """Return pictures of three classes without a part for validation."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        pictures = rng.integers(0, 256, (count, 48, 48, 1), np.uint8)
        return Split(pictures, np.arange(count) % 3, tuple(f"{i}" for i in range(count)))

    return Dataset("grey", tuple("abc"), split(24), None, split(9))


@pytest.fixture
def result(trained: Callable[[str], Result]) -> Result:
    return trained("feature_extraction")


@pytest.mark.parametrize("recipe", [recipe for rungs in RECIPES.values() for recipe in rungs.values()])
def test_every_recipe_names_an_architecture_that_fits_its_base(recipe: Recipe) -> None:
    assert recipe.model in ARCHITECTURES
    assert recipe.base or not (recipe.views or ARCHITECTURES[recipe.model].cached)


# Of "augmented" and "fine_tuned", the tests of a run that is resumed, or waits for another, say the same and more.
@pytest.mark.parametrize("rung", by_speed([*RUNGS, "fine_tuned_fast"], "augmented", "fine_tuned"))
def test_the_same_seed_gives_the_same_result_to_the_last_digit(
    rung: str, trained: Callable[[str], Result], few_shapes: Dataset, tmp_path: Path
) -> None:
    first, again = trained(rung), run_recipe(short_recipe(rung), few_shapes, 0, tmp_path)
    assert first.history == again.history
    assert (first.predicted, first.confidence) == (again.predicted, again.confidence)


@pytest.mark.parametrize("rung", by_speed([*RUNGS, *(f"{rung}_fast" for rung in RUNGS[-3:])]))
def test_the_saved_model_predicts_what_the_result_says(
    rung: str, trained: Callable[[str], Result], few_shapes: Dataset, run_folder: Path
) -> None:
    result = trained(rung)
    model = load_model(run_folder, short_recipe(rung), few_shapes)
    probabilities = model.predict(rescale(few_shapes.test.images.astype(np.float32)), verbose=0)
    fast = rung.endswith("_fast")  # in bfloat16, which has 8 binary digits, on features kept in float16
    assert fast or training.predicted_classes(probabilities).tolist() == result.predicted
    # Results keep four digits; another batch size may add the products in another order.
    np.testing.assert_allclose(training.confidence(probabilities), result.confidence, atol=0.02 if fast else 1e-4)


def test_an_interrupted_run_resumes_and_ends_as_an_unbroken_one(
    trained: Callable[[str], Result], few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = trained("augmented")
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    save, saved = training.Checkpoint.save, []

    def interrupted(
        self: training.Checkpoint, model: keras.Model, history: training.History, clock: progress.Clock
    ) -> None:
        save(self, model, history, clock)
        saved.append(len(history["loss"]))
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(unbroken.recipe, few_shapes, 0, tmp_path)
    resumed = run_recipe(unbroken.recipe, few_shapes, 0, tmp_path)
    assert saved == [1, 2], "an epoch, then the other"
    assert resumed.history == unbroken.history
    assert resumed.confidence == unbroken.confidence
    assert not list((tmp_path / "checkpoints").iterdir()), "a finished run needs no checkpoint"


def test_the_result_has_a_prediction_for_every_test_picture(result: Result, few_shapes: Dataset) -> None:
    assert result.test_accuracy == np.mean(np.equal(result.predicted, result.test_labels))
    assert result.test_labels == few_shapes.test.labels.tolist()
    assert result.test_names == list(few_shapes.test.names)
    assert all(0.5 <= confidence <= 1 for confidence in result.confidence)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"recipe": {}}', '{"seed": 1}'])
def test_a_damaged_result_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(BadInput, match=r"result.json' is not a saved result"):
        Result.load(tmp_path / "result.json")


def test_the_result_holds_all_that_is_needed_to_repeat_it_and_no_path(
    result: Result, run_folder: Path, few_shapes: Dataset
) -> None:
    content = json.loads(json.dumps(result.as_dict()))
    assert content["recipe"]["learning_rate"] == 1e-4
    assert content["dataset"]["fingerprint"] == few_shapes.fingerprint
    assert content["dataset"]["pictures"] == {"train": 40, "validation": 20, "test": 20}
    assert content["machine"]["versions"].keys() >= {"python", "keras", "numpy", "convspec", keras.backend.backend()}
    assert result.weights is not None
    assert result.weights.startswith("mini_base.weights.h5 sha256:")
    assert str(run_folder) not in json.dumps(content)
    assert str(Path(models.__file__).parent) not in json.dumps(content)


def test_every_phase_of_a_run_is_timed(result: Result) -> None:
    phases = {"build", "features", "compile", "train", "validate", "input", "evaluate", "save"}
    assert result.seconds.keys() == phases
    assert all(seconds >= 0 for seconds in result.seconds.values())
    assert result.seconds["features"] > 0
    assert result.images_per_second is not None
    seconds = (2 * 2 - 1) * result.recipe.batch_size / result.images_per_second
    assert result.seconds["train"] == pytest.approx(seconds, rel=0.2, abs=1e-3), "the first step is in compile"


def test_features_are_computed_once_and_shared_by_the_seeds(
    result: Result, few_shapes: Dataset, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.Model, "predict_on_batch", None)  # the base must not run again
    second = run_recipe(short_recipe("feature_extraction"), few_shapes, 1, run_folder)
    assert second.seconds["features"] == pytest.approx(result.seconds["features"], abs=2e-3)
    assert second.history["loss"] != result.history["loss"], "another seed is another run"


def test_frozen_tensors_stay_bit_for_bit_and_thawed_ones_move(
    trained: Callable[[str], Result], few_shapes: Dataset, run_folder: Path
) -> None:
    recipe = trained("fine_tuned").recipe
    before, after = (
        load_model(run_folder, which, few_shapes).get_layer("mini") for which in (recipe.starts_from, recipe) if which
    )
    for layer in models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3)).layers[1:]:
        frozen, tuned = (base.get_layer(layer.name).get_weights() for base in (before, after))
        for tensor, still, moved in zip(layer.get_weights(), frozen, tuned, strict=True):
            assert np.array_equal(tensor, still), f"{layer.name} moved though the base was frozen"
            thawed = layer.name.startswith(("block3", "block4"))
            assert np.array_equal(still, moved) != thawed, f"{layer.name}: thawed from block3_conv1"


def test_a_damaged_predecessor_is_named_as_such(few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = short_recipe("fine_tuned")
    assert recipe.starts_from
    file = tmp_path / "models" / f"{run_key(recipe.starts_from, few_shapes, 0)}.keras"
    file.parent.mkdir()
    file.write_bytes(b"cut short")
    with pytest.raises(BadInput, match=r"frozen_end_to_end-.*\.keras' is no model that Keras can read"):
        run_recipe(recipe, few_shapes, 0, tmp_path)


@pytest.mark.parametrize(
    ("place", "models"),
    [("convspec.features.remove", 0), ("convspec.backend.save_model", 0), ("convspec.ladder.result.atomic_write", 1)],
)
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_done(
    place: str, models: int, few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, full_disk)
    message = r"no room for feature_extraction seed 0 in .*--convspec-report; what is computed is kept"
    with pytest.raises(BadInput, match=message):
        train_once(Run(short_recipe("feature_extraction"), few_shapes, 0, None), tmp_path / "result.json", tmp_path)
    assert len(list(tmp_path.rglob("*.keras"))) == models, "what is whole, and nothing else"
    assert not list(tmp_path.rglob("result.json"))


def test_a_loss_that_is_no_number_is_an_error_and_no_result(few_shapes: Dataset, run_folder: Path) -> None:
    with pytest.raises(BadInput, match="feature_extraction seed 0: the loss is no number any more: take a lower"):
        run_recipe(replace(short_recipe("feature_extraction"), learning_rate=1e30), few_shapes, 0, run_folder)


def test_a_predecessor_that_another_process_trains_is_waited_for(
    trained: Callable[[str], Result],
    few_shapes: Dataset,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    recipe, results, said = short_recipe("fine_tuned"), list[Result](), io.StringIO()
    expected = trained("fine_tuned")
    assert recipe.starts_from
    start = run_folder / "models" / f"{run_key(recipe.starts_from, few_shapes, 0)}.keras"
    file = tmp_path / "together" / "models" / start.name

    def run() -> None:
        results.append(run_recipe(recipe, few_shapes, 0, tmp_path / "together", progress=said))

    thread = threading.Thread(target=run)
    with lock(file):
        thread.start()
        while thread.is_alive() and "waiting" not in said.getvalue():
            thread.join(timeout=0.1)
        assert "waiting" in said.getvalue(), "it does not wait"
        shutil.copy(start, file)
        taken = file.stat()
    thread.join()
    assert results[0].history == expected.history
    assert file.stat().st_ino == taken.st_ino, "it should be taken, not trained again"


def test_the_last_validation_loss_is_that_of_the_saved_model(
    result: Result, few_shapes: Dataset, run_folder: Path
) -> None:
    model = load_model(run_folder, result.recipe, few_shapes)
    assert few_shapes.validation is not None
    key = model.predict(rescale(few_shapes.validation.images.astype(np.float32)), verbose=0)[:, 0]
    loss = -np.log(np.where(few_shapes.validation.labels == 1, key, 1 - key)).mean()
    assert result.history["val_loss"][-1] == pytest.approx(loss, rel=1e-4), "val_loss is not that of these pictures"


def test_runs_that_can_differ_never_share_a_key(few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = find_recipe("feature_extraction", "mini")
    other = tmp_path / "other.weights.h5"
    models.conv_base("mini", None, (48, 48, 3)).save_weights(other)
    test = few_shapes.test
    pictures = replace(few_shapes, test=Split(255 - test.images, test.labels, test.names))
    keys = [
        run_key(recipe, few_shapes, 0),
        run_key(replace(recipe, dropout=0.4), few_shapes, 0),
        run_key(recipe, pictures, 0),
        run_key(recipe, few_shapes, 1),
        run_key(recipe, few_shapes, 0, other),
    ]
    assert len(set(keys)) == len(keys)
    assert run_key(recipe, few_shapes, 0, models.MINI_WEIGHTS) == keys[0], "the default weights, by name"


def test_weights_are_hashed_once_for_all_keys_until_they_are_written_again(
    few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session asks for a key of each pending run before each run, of weights that may be 60 MB."""
    recipe, file, hashed = find_recipe("feature_extraction", "mini"), tmp_path / "any.weights.h5", list[Path]()

    def checksum(path: Path) -> str:
        hashed.append(path)
        return files.checksum(path)

    monkeypatch.setattr(run_module, "checksum", checksum)
    keys = []
    for content in (b"weights", b"others"):
        file.write_bytes(content)
        keys += [run_key(recipe, few_shapes, 0, file) for _ in range(3)]
    assert len(hashed) == 2
    assert keys[0] == keys[2] != keys[3]


@pytest.mark.parametrize("rung", [*RUNGS, "fine_tuned_fast"])
def test_a_result_read_from_its_file_has_the_key_of_its_run(rung: str, few_shapes: Dataset, tmp_path: Path) -> None:
    """So that the report finds its model, and the session its unfinished run."""
    made = builders.result(rung, "mini", 0.9)
    made.save(tmp_path / "result.json")
    read = Result.load(tmp_path / "result.json")
    assert run_key(read.recipe, few_shapes, 0) == run_key(made.recipe, few_shapes, 0)


def test_files_can_have_the_key_of_a_run_on_a_folder_of_any_name(few_shapes: Dataset, tmp_path: Path) -> None:
    longest = max(RECIPES["full"].values(), key=lambda recipe: len(recipe.name))
    with lock(tmp_path / f"{run_key(longest, replace(few_shapes, name='🐱' * 63), 10**9)}.keras"):
        pass


def test_grey_pictures_reach_the_base_rescaled_in_three_equal_channels(tmp_path: Path) -> None:
    """And are of three classes; of ten in the rungs on digits."""
    recipe, grey = short_recipe("feature_extraction"), grey_dataset()
    result = run_recipe(recipe, grey, 0, tmp_path)
    assert set(result.predicted) <= {0, 1, 2}
    assert result.validation_accuracy is None
    pictures = np.repeat(rescale(grey.test.images.astype(np.float32)), 3, axis=-1)
    probabilities = load_model(tmp_path, recipe, grey).predict(pictures, verbose=0)
    np.testing.assert_allclose(training.confidence(probabilities), result.confidence, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("rung", ["augmented", "frozen_end_to_end", "fine_tuned"])
def test_the_long_rungs_take_their_first_steps_on_the_real_pictures(
    rung: str, dogs_and_weights: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dogs, weights = dogs_and_weights
    recipe = find_recipe(rung, "full")
    before = replace(recipe.starts_from, epochs=1, steps=2) if recipe.starts_from else None
    result = run_recipe(replace(recipe, epochs=1, steps=2, starts_from=before), dogs, 0, tmp_path, weights=weights)
    assert len(result.predicted) == len(dogs.test)
    assert np.isfinite(result.history["loss"]).all()
