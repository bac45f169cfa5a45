"""Measures beside accuracy against scikit-learn's, and the gate of balanced accuracy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convspec import BadInput
from convspec.accuracy import baselines, gate, judgement, measures

metrics = pytest.importorskip("sklearn.metrics")
CLASSES = ("cat", "dog", "hen")
ANSWERS = (
    st.integers(3, 60)
    .flatmap(
        lambda n: st.tuples(
            arrays.arrays(int, n, elements=st.integers(0, 2)), arrays.arrays(int, (2, n), elements=st.integers(0, 2))
        )
    )
    .filter(lambda answers: bool(np.intersect1d(*answers).size))
)


def runs(labels: Any, predicted: Any, confidence: Any = None) -> list[baselines.Run]:
    made = judgement.results_from_predictions("pets", predicted, labels, confidence=confidence)
    return [
        replace(run, labels=np.asarray(labels).tolist(), predicted=row)
        for run, row in zip(made, np.atleast_2d(predicted).tolist(), strict=True)
    ]


@given(ANSWERS)
def test_recalls_confusion_and_balanced_accuracy_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = answers
    measured = measures.measure(runs(labels, predicted), CLASSES)
    matrices = [metrics.confusion_matrix(labels, row, labels=range(3)) for row in predicted]
    np.testing.assert_allclose(measured.confusion, np.mean(matrices, axis=0))
    tested = sorted(set(labels))
    recalls = np.mean([metrics.recall_score(labels, row, labels=tested, average=None) for row in predicted], axis=0)
    assert measured.recalls == pytest.approx(
        {CLASSES[label]: recall for label, recall in zip(tested, recalls, strict=True)}
    )
    assert measured.balanced == pytest.approx(recalls.mean())


@given(ANSWERS)
def test_weighted_by_picture_the_accuracy_is_the_balanced_accuracy(answers: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = answers
    weights = measures.picture_weights(labels)
    assert weights.mean() == pytest.approx(1)
    balanced = np.mean([np.average(row == labels, weights=weights) for row in predicted])
    assert balanced == pytest.approx(measures.measure(runs(labels, predicted), CLASSES).balanced)


def test_always_answering_the_commonest_class_is_balanced_at_chance() -> None:
    measured = measures.measure(runs([0] * 55 + [1] * 5, [0] * 60), ("cat", "dog"))
    assert (measured.majority, measured.balanced) == (pytest.approx(55 / 60), 0.5)
    assert measured.recalls == {"cat": 1.0, "dog": 0.0}
    assert measured.confusions == [("dog", "cat", 5.0)]


@pytest.mark.parametrize(("confidence", "error"), [(0.8, 0.0), (1.0, 0.2), (0.5, 0.3)])
def test_the_calibration_error_is_how_far_confidence_is_from_accuracy(confidence: float, error: float) -> None:
    labels = [0, 1] * 50
    predicted = [label if place % 5 else 1 - label for place, label in enumerate(labels)]  # four of five are right
    measured = measures.measure(runs(labels, predicted, [confidence] * 100), ("cat", "dog"))
    assert measured.calibration_error == pytest.approx(error)
    assert measured.reliability == [(pytest.approx(confidence), pytest.approx(0.8), 1.0)]


@given(arrays.arrays(bool, (5, 30)), arrays.arrays(int, 30, elements=st.integers(0, 2)))
def test_the_balanced_gate_compares_the_weighted_accuracies(right: np.ndarray, labels: np.ndarray) -> None:
    weights, base, new = measures.picture_weights(labels), right[:2], right[2:]
    verdict = gate.gate(base, new, weights=weights)
    before, after = (float((side * weights).sum() / side.size) for side in (base, new))
    assert (verdict.baseline, verdict.new, verdict.change) == pytest.approx((before, after, after - before), abs=1e-12)


@pytest.mark.parametrize("turned", ["++----|++|++", "++----|++--|++", "++-----|++-|++---", "++++|----|"])
def test_pictures_that_flip_count_by_their_weights_as_all_signs_do(turned: str) -> None:
    """Some of each class turn right, some wrong, in all runs: every way to give the flips signs is counted."""
    labels, flipped = np.repeat([0, 1, 2], [40, 20, 12]), np.zeros(72)
    for label, signs in enumerate(turned.split("|")):
        flipped[np.flatnonzero(labels == label)[: len(signs)]] = [int(f"{sign}1") for sign in signs]
    weights = measures.picture_weights(labels)
    sizes = weights[flipped != 0]
    every = np.array(np.meshgrid(*[[-1, 1]] * len(sizes))).reshape(len(sizes), -1)
    expected = float(np.mean(sizes @ every <= (flipped * weights).sum() + 1e-9))
    sides = [np.tile(np.where(flipped, flipped == side, True), (3, 1)) for side in (-1, 1)]
    verdict, again = (gate.gate(*sides, weights=weights) for _ in range(2))
    assert verdict.p_value == pytest.approx(expected, abs=0.01)  # five times the error of 100,000 draws
    assert verdict == again


def test_the_rarest_class_bounds_the_drop_that_equal_runs_could_see() -> None:
    """Ten pictures that all turn wrong are the fewest that are beyond 1 in 1,000."""
    labels = np.repeat([0, 1], [150, 50])
    side = np.ones((3, 200), bool)
    verdict = gate.gate(side, side, weights=measures.picture_weights(labels))
    assert verdict.smallest_drop == pytest.approx(10 / 200 * 2)


def test_a_predicted_class_without_a_name_is_refused() -> None:
    """Such as the names that a gate keeps, those of the labels, of a model that predicts a class more."""
    made = judgement.results_from_predictions("pets", [0, 2, 1], [0, 0, 1])
    with pytest.raises(BadInput, match="of 2 names none is that of 2"):
        measures.measure(made, made[0].conditions["classes"])
