"""Pictures that flipped between two sides, and whether there are more of them than by chance."""

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from convspec.accuracy.statistics import validate_sides

FLIP_LEVEL = 0.01
MAX_SPLITS = 10_000  # of runs into two sides that are counted out; more are drawn


@dataclass(frozen=True)
class Flips:
    """How often a picture is right on one side alone, and whether that is more than chance.

    The outcome is "change" where at most 1 in 100 ways to share the runs out between the sides sets the pictures' rates
    of being right as far apart (a permutation test), or where runs of one side never differ; "cannot tell" where there
    are too few ways.
    """

    outcome: Literal["chance", "change", "cannot tell"]
    between: float  # share of pictures on which a run of the baseline and a new one differ, a mean over all pairs
    within: float | None  # the same of two runs of one side, a mean over the sides; None for one run a side
    p_value: float
    pictures: tuple[int, ...]  # whose rate of being right changed, the most consistent first
    changes: tuple[float, ...]  # of that rate for each of the pictures, from -1 to 1
    complete: int  # pictures that are right in all runs of one side and wrong in all of the other
    expected: float  # how many of these chance gives

    def __str__(self) -> str:
        within = "unknown" if self.within is None else f"{100 * self.within:.1f} %"
        return (
            f"{self.outcome}: {100 * self.between:.1f} % of pictures flip from the baseline to a new run, {within} "
            f"between runs of one side (p = {self.p_value:.2g}); {self.complete} flipped in all runs, "
            f"{self.expected:.1f} expected by chance"
        )


def flips(baseline: ArrayLike, new: ArrayLike) -> Flips:
    """Return the pictures that are right on one side and wrong on the other; sides as in `gate`."""
    base, fresh = validate_sides(baseline, new)
    before, after = len(base), len(fresh)
    runs, right, pictures = before + after, np.vstack([base, fresh]).astype(float), base.shape[1]
    differ = right @ (1 - right).T + (1 - right) @ right.T  # number of pictures, for each pair of runs
    splits, ways = _splits(before, after)
    crossing, sides = float(differ[:before, before:].sum()), (differ[:before, :before], differ[before:, before:])
    inner = [float(side.sum()) / (len(side) * (len(side) - 1) * pictures) for side in sides if len(side) > 1]
    within = sum(inner) / len(inner) if inner else None
    shifts = fresh.sum(axis=0) * before - base.sum(axis=0) * after  # in whole numbers, so that ties are ties
    factors = np.where(splits, before, -after)
    distances = -((factors @ differ) * factors).sum(axis=1)  # twice the sum of the squared shifts, for each way
    p_value = float((distances >= 2 * (shifts**2).sum()).mean())
    order = np.argsort(-np.abs(shifts), kind="stable")[: np.count_nonzero(shifts)]
    hits = np.bincount(right.sum(axis=0).astype(int), minlength=runs + 1)
    min_p = (1 + (before == after)) / ways  # sides of equal size can be swapped
    changed = p_value <= FLIP_LEVEL or (within == 0 and crossing > 0)
    return Flips(
        outcome="change" if changed else "cannot tell" if min_p > FLIP_LEVEL else "chance",
        between=crossing / (before * after * pictures),
        within=within,
        p_value=p_value,
        pictures=tuple(map(int, order)),
        changes=tuple(map(float, shifts[order] / (before * after))),
        complete=int((np.abs(shifts) == before * after).sum()),
        expected=int(hits[before] + hits[after]) / ways,
    )


def _splits(before: int, after: int) -> tuple[np.ndarray, int]:
    """Return ways to choose the new side, one a row, true for its runs; and how many there are."""
    runs, ways = before + after, comb(before + after, after)
    if ways <= MAX_SPLITS:
        splits = np.zeros((ways, runs), bool)
        np.put_along_axis(splits, np.array([*combinations(range(runs), after)]), True, axis=1)
        return splits, ways
    actual = np.arange(runs) >= before
    splits = np.random.default_rng(0).permuted(np.tile(actual, (MAX_SPLITS, 1)), axis=1)
    splits[0] = actual
    return splits, ways
