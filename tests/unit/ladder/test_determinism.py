"""Two runs with one seed: bit-identical, nearly so, or diverging from some step."""

from dataclasses import replace

import numpy as np
import pytest
from builders import result

from convspec.data.datasets import Dataset, Split
from convspec.ladder import determinism
from convspec.ladder.run import Run
from convspec.ladder.rungs import find_recipe

LOSSES = [0.7, 0.6, 0.5, 0.4]


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [
        (LOSSES, "bit-identical"),
        ([0.7, 0.6000001, 0.5, 0.4], "within 1e-05"),
        ([0.7, 0.6000001, 0.5001, 0.4], "diverging from step 3"),
        ([0.71, 0.6, 0.5, 0.4], "diverging from step 1"),
        ([0.7, 0.6, float("nan"), 0.4], "diverging from step 3"),
    ],
)
def test_the_first_step_beyond_the_tolerance_is_named(losses: list[float], outcome: str) -> None:
    run = result("dense_baseline", "mini", 0.9)
    compared = determinism.compare(replace(run, history={"loss": LOSSES}), replace(run, history={"loss": losses}))
    assert compared.outcome == outcome
    largest = np.max(np.abs(np.divide(losses, LOSSES) - 1))
    assert compared.largest == pytest.approx(largest, abs=1e-9, nan_ok=True)


def test_other_predictions_after_the_same_losses_are_not_the_same() -> None:
    run = replace(result("dense_baseline", "mini", 0.9), history={"loss": LOSSES})
    other = replace(run, confidence=[0.901, *run.confidence[1:]])
    assert determinism.compare(run, other).outcome == "within 1e-05"


def test_a_rung_repeats_itself_bit_by_bit_with_a_rare_class_too(few_shapes: Dataset) -> None:
    """On a processor; the other rungs do in the ladder. Folders are in the order of their classes."""
    train = few_shapes.train
    order = np.concatenate([np.repeat(np.flatnonzero(train.labels == 0), 20), np.flatnonzero(train.labels == 1)[:2]])
    rare = Split(train.images[order], train.labels[order], tuple(map(str, range(len(order)))))
    recipe = find_recipe("feature_extraction_fast", "mini")
    assert determinism.repeat(Run(recipe, replace(few_shapes, train=rare), 0, None)).outcome == "bit-identical"
