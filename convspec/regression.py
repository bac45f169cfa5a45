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


def next_run(accuracies: Sequence[float], pictures: int) -> tuple[float, float]:
    """Where another run's accuracy lies with 95 % confidence, from those of the runs there are: Student's t over seeds
    for a single new one; of a single run, whose seeds' variance is unknown, `interval`."""
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
