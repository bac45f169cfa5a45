"""The statistics of the gates."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def interval(accuracies: Sequence[float], pictures: int) -> tuple[float, float]:
    """95 % interval of the mean accuracy: Student's t over seeds; for a single seed, or where all agree to the last
    picture (a fit without chance), Wilson's over test pictures."""
    if len(set(accuracies)) == 1:
        right = round(accuracies[0] * pictures)
        ci = stats.binomtest(right, pictures).proportion_ci(CONFIDENCE, method="wilson")
        return float(ci.low), float(ci.high)
    mean, error = float(np.mean(accuracies)), float(stats.sem(accuracies))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(accuracies) - 1)) * error
    return mean - half, mean + half


def probability_of_no_gain(lower: Sequence[float], higher: Sequence[float], least_gain: float = 0.0) -> float:
    """One-sided p-value of a paired t-test that the second side gains at most `least_gain`; same seeds, same order.

    A negative `least_gain` is the margin of a non-inferiority test.

    Raises ValueError for fewer than two pairs, or sides of different lengths.
    """
    if len(lower) != len(higher) or len(lower) < 2:
        raise ValueError(f"needs at least two pairs of runs, got {len(lower)} and {len(higher)}")
    gains = np.subtract(higher, lower) - least_gain
    if np.ptp(gains) == 0:  # the t-test has no variance to work with
        return 0.0 if gains[0] > 0 else 1.0
    return float(stats.ttest_1samp(gains, 0, alternative="greater").pvalue)
