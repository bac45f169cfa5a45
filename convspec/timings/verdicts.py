"""Ratios of times with 95 % intervals, and what they say in words: the one rule of all timings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy import stats

from convspec.accuracy.statistics import CONFIDENCE

Outcome = Literal["faster", "no slower", "slower", "cannot tell"]
Times = Sequence[float] | np.ndarray

RELATIVE_FLOOR = 0.05  # a difference that nobody acts on
MIN_PAIRS = 6  # the whole range of five pairs holds the ratio less than 95 times in 100
MIN_ROUNDS = 5  # of two sessions that were not paired


@dataclass(frozen=True)
class Ratio:
    """A ratio of times and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{format_figure(self.value)} [{format_figure(self.low)}, {format_figure(self.high)}]"


def format_figure(value: float) -> str:
    """Return three significant digits, or all of a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def format_seconds(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{format_figure(seconds * scale)} {unit}"


def ratio_of_pairs(ours: Times, rival: Times) -> Ratio:
    """Return how the times of `ours` relate to those of `rival`, which ran in turn with it.

    The estimate of Hodges and Lehmann on the logarithms, with the interval of Wilcoxon's signed-rank test, which takes
    noise to meet both sides alike. A round that other work disturbed hardly moves the estimate, and widens the interval
    of fewer than 12 rounds. Raises ValueError for fewer than MIN_PAIRS pairs.
    """
    steps = np.log(ours) - np.log(rival)
    if len(steps) < MIN_PAIRS:
        raise ValueError(f"a ratio needs {MIN_PAIRS} pairs or more, got {len(steps)}")
    place, first, second = _order(len(steps))
    averages = np.sort((steps[first] + steps[second]) / 2)
    return Ratio(*map(float, np.exp([np.median(averages), averages[place - 1], averages[-place]])))


@cache
def _order(pairs: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return from which of the sorted averages on they lie in the interval, and the two steps of each average."""
    chances = np.ones(1)  # that the ranks of positive steps add up to 0, 1, ...
    for rank in range(1, pairs + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    place = int(np.searchsorted(np.cumsum(chances), (1 - CONFIDENCE) / 2, side="right"))
    return place, *np.triu_indices(pairs)


def ratio_of_sessions(first: Times, other: Times) -> Ratio | None:
    """Return how the median of `other` relates to that of `first`, timed in another session; None for few rounds.

    The interval is a bootstrap over rounds, which do not show how sessions differ.
    """
    if min(len(first), len(other)) < MIN_ROUNDS:
        return None

    def of_medians(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return np.median(other, axis=axis) / np.median(one, axis=axis)

    low, high = stats.bootstrap(
        (first, other), of_medians, n_resamples=1000, batch=max(10**6 // max(len(first), len(other)), 1),
        vectorized=True, method="percentile", confidence_level=CONFIDENCE, random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Ratio(float(np.median(other) / np.median(first)), float(low), float(high))


def judge(ratio: Ratio, bound: float = 1 + RELATIVE_FLOOR) -> Outcome:
    """Return what a ratio's interval says of `bound`, the largest that is allowed.

    "slower" where the whole interval lies above the bound, "no slower" where it ends at the bound, "faster" where it
    ends below 1, too, and "cannot tell" where the bound lies inside.
    """
    if ratio.low > bound:
        return "slower"
    if ratio.high > bound:
        return "cannot tell"
    return "faster" if ratio.high < 1 else "no slower"
