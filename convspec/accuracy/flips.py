"""Which pictures flipped between two sides, and whether more of them than by chance."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from convspec.accuracy.statistics import checked_sides

FLIP_LEVEL = 0.01
MAX_SPLITS = 10_000  # of runs into two sides that are counted out; more are drawn


@dataclass(frozen=True)
class Flips:
    """How often a picture is right on one side and wrong on the other, and whether that is more than chance.

    `between` is the share of pictures on which a run of the baseline and a new one differ, `within` that on which two
    runs of one side do, each a mean over all pairs; `within` is None for one run a side. `outcome` is "change" where
    at most 1 in 100 ways to share the runs out between the sides sets them as far apart as they are (a permutation
    test, `p_value`) or where runs of one side never differ, "cannot tell" where there are too few ways, else "chance".
    `pictures` are those whose rate of being right changed, the most consistent first, and `changes` by how much;
    `complete` of them are right in all runs of one side and wrong in all of the other, `expected` by chance.
    """

    outcome: str
    between: float
    within: float | None
    p_value: float
    pictures: tuple[int, ...]
    changes: tuple[float, ...]
    complete: int
    expected: float

    def __str__(self) -> str:
        within = "unknown" if self.within is None else f"{100 * self.within:.1f} %"
        return (
            f"{self.outcome}: {100 * self.between:.1f} % of pictures flip from the baseline to a new run, {within} "
            f"between runs of one side (p = {self.p_value:.2g}); {self.complete} flipped in all runs, "
            f"{self.expected:.1f} expected by chance"
        )


def flips(baseline: ArrayLike, new: ArrayLike) -> Flips:
    """The pictures that are right on one side and wrong on the other, and whether there are more than by chance.

    Raises ValueError for sides that are no matrices of runs by the same pictures.
    """
    base, fresh = checked_sides(baseline, new)
    before, after, pictures = len(base), len(fresh), base.shape[1]
    runs, right = before + after, np.vstack([base, fresh]).astype(float)
    differ = (right @ (1 - right).T + (1 - right) @ right.T) / pictures
    ways = comb(runs, after)
    if ways <= MAX_SPLITS:
        splits = np.zeros((ways, runs), bool)
        np.put_along_axis(splits, np.array([*combinations(range(runs), after)]), True, axis=1)
    else:
        rng = np.random.default_rng(0)
        splits = rng.permuted(np.tile(np.arange(runs) >= before, (MAX_SPLITS, 1)), axis=1)
        splits[0] = np.arange(runs) >= before
    apart = ((splits @ differ) * ~splits).sum(axis=1)
    crossing = float(differ[:before, before:].sum())
    p_value = float((apart >= crossing - 1e-9).mean())
    inner = before * (before - 1) + after * (after - 1)
    shifts = fresh.sum(axis=0) * before - base.sum(axis=0) * after  # in whole numbers, so that ties are ties
    order = np.argsort(-np.abs(shifts), kind="stable")[: np.count_nonzero(shifts)]
    hits = np.bincount(right.sum(axis=0).astype(int), minlength=runs + 1)
    fewest = (1 + (before == after)) / ways  # sides of equal size can be swapped
    within = float(differ.sum() - 2 * crossing) / inner if inner else None
    if p_value <= FLIP_LEVEL or (within == 0 and crossing > 0):
        outcome = "change"
    else:
        outcome = "cannot tell" if fewest > FLIP_LEVEL else "chance"
    return Flips(
        outcome=outcome,
        between=crossing / (before * after),
        within=within,
        p_value=p_value,
        pictures=tuple(map(int, order)),
        changes=tuple(map(float, shifts[order] / (before * after))),
        complete=int((np.abs(shifts) == before * after).sum()),
        expected=float(hits[before] + hits[after]) / ways,
    )
