"""The statistics of the gates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RELATIVE_FLOOR = 0.05
ABSOLUTE_FLOOR = 0.002  # seconds: a tick of the system's scheduler is 1 to 4 ms


@dataclass(frozen=True)
class Verdict:
    """Of one benchmark: the outcome, and the ratio of the new times to the old ones with its 95 % interval."""

    outcome: str
    ratio: float
    low: float
    high: float


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


def judge(base: Sequence[float] | np.ndarray, new: Sequence[float] | np.ndarray) -> Verdict:
    """Whether `new` takes longer than `base`: medians of at least three rounds, paired by round, in seconds.

    "slower" only where the whole 95 % interval of the ratio (Student's t on its logarithm) lies above 1.05 and the
    medians differ by more than 2 ms; "no slower" where the interval ends at 1.05, or at 2 ms more than `base`;
    else "cannot tell".
    """
    logarithms = np.log(new) - np.log(base)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(logarithms) - 1) * stats.sem(logarithms)
    low, ratio, high = (float(np.exp(logarithms.mean() + step)) for step in (-half, 0, half))
    old, absolute = float(np.median(base)), float(np.median(new) - np.median(base))
    if low > 1 + RELATIVE_FLOOR and absolute > ABSOLUTE_FLOOR:
        outcome = "slower"
    elif high <= 1 + max(RELATIVE_FLOOR, ABSOLUTE_FLOOR / old):
        outcome = "no slower"
    else:
        outcome = "cannot tell"
    return Verdict(outcome, ratio, low, high)
