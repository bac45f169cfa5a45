"""Results of the ladder: what a gate gets of them, and back."""

import json
from dataclasses import replace
from pathlib import Path

import builders
import pytest

from convspec import BadInput
from convspec.accuracy import baselines
from convspec.accuracy.judgement import results_from_predictions
from convspec.ladder.result import Result

COMMITTED = Path(__file__).parents[3] / "fixtures" / "baselines"
RESULT = builders.result("fine_tuned", "full", 0.9)


def test_every_committed_baseline_is_a_result_with_the_same_run() -> None:
    """A recipe of an earlier version lacks the fields that came after it, and reads with their defaults."""
    for run in baselines.read(COMMITTED):
        again = (result := Result.from_run(run)).as_run()
        assert replace(again, measurements=run.measurements) == run
        assert Result.from_run(again) == result


def test_a_result_comes_back_from_its_baseline(tmp_path: Path) -> None:
    baselines.write(tmp_path, RESULT.as_run())
    assert [Result.from_run(run) for run in baselines.read(tmp_path)] == [RESULT]
    assert RESULT.as_run().accuracy == RESULT.test_accuracy


def test_conditions_are_what_decides_the_accuracy_and_no_defaults() -> None:
    conditions = RESULT.as_run().conditions
    assert conditions.keys() == {"recipe", "dataset", "weights"}
    assert conditions["recipe"]["starts_from"]["augmentation"]["zoom_range"] == 0.2
    assert not conditions["recipe"].keys() & {"listings", "published", "dropout", "views", "extra_sizes"}
    renamed = [replace(RESULT, weights=f"{name}.h5 sha256:a2f5").as_run() for name in ("vgg16", "other")]
    assert baselines.incomparable(*renamed) == []
    longer = replace(RESULT, recipe=replace(RESULT.recipe, epochs=101, listings="5.22")).as_run()
    assert baselines.incomparable(RESULT.as_run(), longer) == ["recipe.epochs is 101, was 100"]


def test_a_run_of_somebody_elses_model_is_no_result() -> None:
    with pytest.raises(BadInput, match=r"run 'mine', seed 0, is not a result of the ladder: .*`recipe`"):
        Result.from_run(results_from_predictions("mine", [0, 1], [0, 1])[0])


def test_a_saved_result_of_another_schema_is_refused(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == RESULT
    content = json.loads((tmp_path / "result.json").read_text()) | {"schema": 9}
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="not a saved result: its schema is 9, not 3: delete"):
        Result.load(tmp_path / "result.json")
