"""The statistics of the gates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def checked_sides(baseline: ArrayLike, new: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    sides = [np.asarray(side) for side in (baseline, new)]
    for name, side in zip(("baseline", "new"), sides, strict=True):
        if side.ndim != 2 or not len(side) or side.shape[1] < 2:
            raise ValueError(f"{name} must be a matrix of runs by at least two pictures, got shape {side.shape}")
        if side.dtype != bool and not np.isin(side, (0, 1)).all():
            raise ValueError(
                f"{name} must hold right or wrong (1 or 0) for each picture, got {side[~np.isin(side, (0, 1))][0]}"
            )
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"both sides must have the same pictures, got {sides[0].shape[1]} and {sides[1].shape[1]}")
    return sides[0].astype(bool), sides[1].astype(bool)


CONFIDENCE = 0.95


def interval(accuracies: Sequence[float], pictures: int) -> tuple[float, float]:
    """95 % interval of the mean accuracy: Student's t over seeds; for a single seed, or where all agree to the last
    picture (a fit without chance), Wilson's over test pictures.
    """
    if len(set(accuracies)) == 1:
        right = round(accuracies[0] * pictures)
        ci = stats.binomtest(right, pictures).proportion_ci(CONFIDENCE, method="wilson")
        return float(ci.low), float(ci.high)
    mean, error = float(np.mean(accuracies)), float(stats.sem(accuracies))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(accuracies) - 1)) * error
    return mean - half, mean + half


def next_run(accuracies: Sequence[float], pictures: int) -> tuple[float, float]:
    """Where another run's accuracy lies with 95 % confidence, from those of the runs there are: Student's t over seeds
    for a single new one; of a single run, whose seeds' variance is unknown, `interval`.
    """
    if len(accuracies) == 1:
        return interval(accuracies, pictures)
    spread = max(float(np.std(accuracies, ddof=1)), 1 / pictures) * np.sqrt(1 + 1 / len(accuracies))
    low, high = stats.t.interval(CONFIDENCE, len(accuracies) - 1, float(np.mean(accuracies)), spread)
    return float(low), float(high)


def probability_of_no_gain(lower: Sequence[float], higher: Sequence[float], least_gain: float = 0.0) -> float:
    """One-sided p-value of Welch's t-test that the mean of `higher` is at most `least_gain` above that of `lower`.

    A negative `least_gain` is the margin of a non-inferiority test. Runs are not paired by seed, which in two recipes
    draws nothing that is the same.

    Raises ValueError for fewer than two runs a side.
    """
    if min(len(lower), len(higher)) < 2:
        raise ValueError(f"needs at least two runs a side, got {len(lower)} and {len(higher)}")
    if np.ptp(lower) == np.ptp(higher) == 0:  # the t-test has no variance to work with
        return 0.0 if higher[0] - lower[0] > least_gain else 1.0
    least = np.add(lower, least_gain)
    return float(stats.ttest_ind(higher, least, equal_var=False, alternative="greater").pvalue)
