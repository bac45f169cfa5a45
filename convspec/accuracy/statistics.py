"""Confidence intervals and tests of accuracies over seeds.

All from scipy.special: importing scipy.stats takes a second.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

CONFIDENCE = 0.95


def validate_sides(baseline: ArrayLike, new: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides as boolean matrices of runs by pictures; ValueError for anything else."""
    sides = [np.asarray(side) for side in (baseline, new)]
    for name, side in zip(("baseline", "new"), sides, strict=True):
        if side.ndim != 2 or not len(side) or side.shape[1] < 2:
            raise ValueError(f"{name} must be a matrix of runs by at least two pictures, got shape {side.shape}")
        if side.dtype != bool and not (binary := np.isin(side, (0, 1))).all():
            raise ValueError(f"{name} must hold right or wrong (1 or 0) for each picture, got {side[~binary][0]}")
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"both sides must have the same pictures, got {sides[0].shape[1]} and {sides[1].shape[1]}")
    return sides[0].astype(bool), sides[1].astype(bool)


def interval(accuracies: Sequence[float], pictures: float) -> tuple[float, float]:
    """Return the 95 % interval of the mean accuracy: Student's t over seeds.

    For a single seed, or where all agree to the last picture (a fit without chance), Wilson's over the test pictures.
    """
    if len(set(accuracies)) > 1:
        return _student(accuracies, float(np.std(accuracies, ddof=1)) / np.sqrt(len(accuracies)))
    return wilson(accuracies[0], pictures, CONFIDENCE)


def wilson(rate: float, pictures: float, confidence: float) -> tuple[float, float]:
    """Return the two-sided interval of a rate among so many pictures (Wilson 1927, doi:10.2307/2276774)."""
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2 / pictures
    centre, half = rate + z2 / 2, np.sqrt(z2 * (rate * (1 - rate) + z2 / 4))
    return max(float((centre - half) / (1 + z2)), 0.0), min(float((centre + half) / (1 + z2)), 1.0)


def next_run(accuracies: Sequence[float], pictures: int) -> tuple[float, float]:
    """Return the 95 % interval of another run's accuracy: Student's t over seeds.

    Of a single run, whose scatter between seeds is unknown, that of chance over the pictures takes its place: for two
    runs, so half as many pictures. In no recorded runs do seeds scatter by clearly more in their validation accuracy.
    """
    if len(accuracies) == 1:
        return interval(accuracies, pictures / 2)
    spread = max(float(np.std(accuracies, ddof=1)), 1 / pictures)
    return _student(accuracies, spread * np.sqrt(1 + 1 / len(accuracies)))


def probability_of_no_gain(lower: Sequence[float], higher: Sequence[float], min_gain: float = 0.0) -> float:
    """Return the one-sided p-value of Welch's t-test that `higher` gains at most `min_gain` over `lower` in the mean.

    A negative `min_gain` makes it a test of non-inferiority. Runs are not paired by seed: where equal seeds share
    kernels and order, as in `from_scratch` and `augmented`, their accuracies rise together, and this test is the more
    cautious one. Raises ValueError for fewer than two runs a side.
    """
    if min(len(lower), len(higher)) < 2:
        raise ValueError(f"needs at least two runs a side, got {len(lower)} and {len(higher)}")
    if np.ptp(lower) == np.ptp(higher) == 0:  # the t-test has no variance to work with
        return 0.0 if higher[0] - lower[0] > min_gain else 1.0
    degrees, error = welch([float(np.var(side, ddof=1)) for side in (lower, higher)], [len(lower), len(higher)])
    return float(special.stdtr(degrees, (min_gain - float(np.mean(higher) - np.mean(lower))) / error))


def welch(variances: Sequence[float], runs: Sequence[int]) -> tuple[float, float]:
    """Return degrees of freedom and error of a difference of means (Welch 1947, doi:10.1093/biomet/34.1-2.28)."""
    parts = [variance / count for variance, count in zip(variances, runs, strict=True)]
    degrees = sum(parts) ** 2 / sum(part**2 / (count - 1) for part, count in zip(parts, runs, strict=True))
    return degrees, float(np.sqrt(sum(parts)))


def _student(accuracies: Sequence[float], error: float) -> tuple[float, float]:
    mean, half = float(np.mean(accuracies)), float(special.stdtrit(len(accuracies) - 1, (1 + CONFIDENCE) / 2) * error)
    return mean - half, mean + half
