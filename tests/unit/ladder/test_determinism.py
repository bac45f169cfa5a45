"""The report on determinism tells runs that repeat themselves from runs that nearly do and runs that diverge."""

from pathlib import Path

import numpy as np
import pytest

from convspec.data.datasets import Dataset
from convspec.ladder import determinism
from convspec.ladder import run as run_module
from convspec.ladder.rungs import find_recipe


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        ([0.7, 0.6, 0.5, 0.4], "bit-identical"),
        ([0.7, 0.6000001, 0.5, 0.4], "within 1e-05"),
        ([0.7, 0.6000001, 0.5001, 0.4], "diverging from step 3"),
        ([0.71, 0.6, 0.5, 0.4], "diverging from step 1"),
        ([0.7, 0.6, float("nan"), 0.4], "diverging from step 3"),
    ],
)
def test_the_first_step_beyond_the_tolerance_is_named(
    again: list[float], expected: str, few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([[0.7, 0.6, 0.5, 0.4], again])
    run = run_module.run

    def noted(*arguments, **options):
        result = run(*arguments, **options)
        result.history["loss"][:] = next(losses)
        return result

    monkeypatch.setattr(determinism, "run", noted)
    found = determinism.repeat(find_recipe("dense_baseline", "mini"), few_shapes, 0, tmp_path)
    assert found.outcome == expected
    assert found.largest == pytest.approx(
        np.max(np.abs(np.divide(again, [0.7, 0.6, 0.5, 0.4]) - 1)), abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize(
    "rung",
    [
        "feature_extraction_fast",
        *(pytest.param(rung, marks=pytest.mark.slow) for rung in ("from_scratch", "fine_tuned")),
    ],
)
def test_a_rung_repeats_itself_bit_by_bit_on_a_processor(rung: str, few_shapes: Dataset, tmp_path: Path) -> None:
    assert determinism.repeat(find_recipe(rung, "mini"), few_shapes, 0, tmp_path).outcome == "bit-identical"


def test_other_predictions_after_the_same_losses_are_not_the_same(
    few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, shift = run_module.run, iter([0.0, 0.001])

    def noted(*arguments, **options):
        result = run(*arguments, **options)
        result.confidence[0] += next(shift)
        return result

    monkeypatch.setattr(determinism, "run", noted)
    found = determinism.repeat(find_recipe("dense_baseline", "mini"), few_shapes, 0, tmp_path)
    assert found.outcome == "within 1e-05"
