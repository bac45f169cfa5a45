"""The gate of an accuracy: pass, regressed or underpowered; and the pictures that flipped.

Both sides are boolean matrices of runs by pictures, true where the run is right: the same pictures in the same order,
the runs in the order of their seeds. What the gate speaks of is the mean accuracy over seeds on these pictures, so
that their choice adds no variance (each is its own control) and the variance between seeds is all that is left:

- *regressed* takes a one-sided t-test at 0.001 that the accuracy dropped, and a 90 % interval below 0. Where nothing
  changed all runs are draws of one distribution, and for normal accuracies a t-test's level is exact whatever the
  variance between seeds, whichever side it is taken from. Nine tenths of the level go to the test with the variance
  pooled over both sides, the strongest for a shift; one goes to that with the baseline's alone, as many faults scatter
  the runs, too, and their drop would hide behind the scatter (Bonferroni's inequality holds the sum). Nothing is
  borrowed from the binomial variance of the pictures, as moderated t-tests would (Smyth 2004,
  doi:10.2202/1544-6115.1027): between rungs the ratio of the two goes from 0.3 to 10, and such a prior costs the level.
  Equal seeds are not paired, which would halve the degrees of freedom; where they correlate, the test errs on the safe
  side.
- *pass* takes one-sided 95 % confidence that the drop is below the margin (non-inferiority), by Welch's t (1947,
  doi:10.1093/biomet/34.1-2.28), as a change may change the variance, too; or the same predictions seed by seed.
- *underpowered* is all else.

Where all runs of a side are the same to the last bit (a fit without chance), chance is in the pictures alone: McNemar's
exact test (1947, doi:10.1007/BF02295996) on those that one side has right, and Student's t over pictures. Of one run
a side it tells that the two models differ, and no more. A side of one run that is not known to be without chance says
nothing of its variance: it may pass beside several, but is never regressed, however large the drop.

Sequential use: each of `looks` verdicts spends an equal share of both error rates, which holds them over all looks
whatever their correlation (Bonferroni's inequality, exact for t statistics, too; in the terms of Lan and DeMets 1983,
doi:10.1093/biomet/70.3.659, a linear spending function, without the gain from knowing the correlation).
"""

from bisect import bisect_left
from dataclasses import dataclass
from math import ceil, inf, log2, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from convspec.accuracy.statistics import CONFIDENCE, checked_sides

FALSE_ALARMS = 0.001
POWER = 0.95
MARGIN = 0.01
OWN_SHARE = 0.1  # of the level, for the test with the variance of the baseline alone
MIN_SEEDS, MAX_SEEDS = 3, 1_000_000
SUSPICION = (
    "suspiciously good ({:+.1f} points): are test pictures among the training pictures (the same files, copies, crops, "
    "frames of one scene), does the label leak into the input, or is the base one that has seen these pictures?"
)


@dataclass(frozen=True)
class AccuracyVerdict:
    """Of one gate: the outcome ("pass", "regressed" or "underpowered") and what it rests on.

    `change` is that of the mean accuracy, new less baseline, with its 90 % interval (wider for one of several looks;
    its lower end decides on "pass"); `p_value` that of no drop. `smallest_drop` would have been "regressed" 95 times
    in 100; None where no drop would. Where more seeds would end "underpowered", `seeds_needed` new runs, beside at
    least as many of the baseline, would see a drop by the margin as often, by the variance estimated here.
    """

    outcome: str
    runs: tuple[int, int]
    baseline: float
    new: float
    change: float
    low: float
    high: float
    p_value: float
    margin: float
    smallest_drop: float | None
    seeds_needed: int | None
    note: str
    warning: str

    def __str__(self) -> str:
        seen = "none" if self.smallest_drop is None else f"{100 * self.smallest_drop:.1f} points"
        parts = [
            f"{self.outcome}: {self.new:.3f} against {self.baseline:.3f}, {100 * self.change:+.1f} points "
            f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}], p = {self.p_value:.2g}",
            "runs: {1} against {0}".format(*self.runs),
            f"smallest drop that would have been seen: {seen}",
        ]
        if self.seeds_needed is not None:
            more = " and ".join(
                f"{self.seeds_needed - runs} more {side}"
                for runs, side in zip(self.runs, ("baseline runs", "runs"), strict=True)
                if runs < self.seeds_needed
            )
            parts.append(f"{more or 'as many as these'} would see {100 * self.margin:.1f}")
        return "; ".join([*parts, *filter(None, (self.note, self.warning))])


def gate(baseline: ArrayLike, new: ArrayLike, *, margin: float = MARGIN, looks: int = 1) -> AccuracyVerdict:
    """Whether `new` is as accurate as `baseline`, but for `margin`; see above for the rule.

    `looks` is the number of verdicts that are asked for one after the other while runs are added, this one included;
    it is set before the first.

    Raises ValueError for sides that are no such matrices, a margin outside (0, 1) or fewer than one look.
    """
    if not 0 < margin < 1 or looks < 1:
        raise ValueError(f"margin must lie between 0 and 1 and looks be at least 1, got {margin} and {looks}")
    base, fresh = checked_sides(baseline, new)
    alpha, level, shared = FALSE_ALARMS / looks, (1 - CONFIDENCE) / looks, min(len(base), len(fresh))
    accuracies = base.mean(axis=1), fresh.mean(axis=1)
    before, after = (float(side.mean()) for side in accuracies)
    single = len(base) == len(fresh) == 1
    constant = bool((base == base[0]).all() and (fresh == fresh[0]).all())
    lone = single or (shared == 1 and not constant)
    if constant:
        found = _by_pictures(base[0], fresh[0], alpha)
    else:
        found = _by_seeds(*accuracies, 1 / 12 / base.shape[1] ** 2, alpha, level)
    half = float(special.stdtrit(found.degrees, 1 - level)) * found.error
    change, note = after - before, ""
    if lone:
        note = "a side of one run says nothing of its variance between seeds"
        if single:
            note += f", which may be why these differ (McNemar's p = {found.drop_p:.2g}) and adds to the runs needed"
    elif constant:
        note = "all runs of a side are the same: more pictures would tell more, more seeds would not"
    if (base[:shared] == fresh[:shared]).all():
        outcome, note = "pass", "the same predictions, seed by seed"
    elif change - half > -margin and not single:
        outcome = "pass"
    elif found.drop_p <= alpha and change + half < 0 and not lone:
        outcome = "regressed"
    else:
        outcome = "underpowered"
    more_seeds_tell = outcome == "underpowered" and (lone or not constant)
    suspicious = change > margin and (found.gain_p <= alpha or bool(fresh.all()))
    return AccuracyVerdict(
        outcome=outcome,
        runs=(len(base), len(fresh)),
        baseline=before,
        new=after,
        change=change,
        low=change - half,
        high=change + half,
        p_value=found.drop_p,
        margin=margin,
        smallest_drop=None if lone or found.smallest_drop > before else max(found.smallest_drop, margin),
        seeds_needed=_seeds_needed(found.variance, len(base), alpha, margin) if more_seeds_tell else None,
        note=note,
        warning=SUSPICION.format(100 * change) if suspicious else "",
    )


class _Evidence(NamedTuple):
    """`error` of the change and its `degrees` of freedom, for the interval; `variance` of one run's accuracy."""

    error: float
    degrees: float
    variance: float
    drop_p: float
    gain_p: float
    smallest_drop: float


def _by_pictures(base: np.ndarray, new: np.ndarray, alpha: float) -> _Evidence:
    flipped = new.astype(int) - base
    pictures, worse, better = len(flipped), int((flipped < 0).sum()), int((flipped > 0).sum())
    spread = (worse + better - (worse - better) ** 2 / pictures) / (pictures - 1)  # the variance, from whole numbers
    error = sqrt(max(spread, 1 / 12 / pictures) / pictures)
    drop_p, gain_p = (float(stats.binom.sf(count - 1, worse + better, 0.5)) for count in (worse, better))
    fewest = ceil(-log2(alpha)) / pictures  # flips all one way, for McNemar's test to see them
    smallest = max(_detectable(alpha, pictures - 1, error), fewest)
    return _Evidence(error, pictures - 1, error**2 / 2, drop_p, gain_p, smallest)


def _by_seeds(base: np.ndarray, new: np.ndarray, least: float, alpha: float, level: float) -> _Evidence:
    """Accuracies of one run at least, of two on one side; none has a variance below `least`."""
    change, runs = float(new.mean() - base.mean()), (len(base), len(new))
    pooled = sum(runs) - 2
    variance = max(sum(float(((side - side.mean()) ** 2).sum()) for side in (base, new)) / pooled, least)
    error = sqrt(variance * (1 / runs[0] + 1 / runs[1]))
    own = sqrt(max(float(base.var(ddof=1)), least) * (1 / runs[0] + 1 / runs[1])) if runs[0] > 1 else inf

    def p_value(sign: int) -> float:
        both = special.stdtr(pooled, sign * change / error) / (1 - OWN_SHARE)
        alone = special.stdtr(max(runs[0] - 1, 1), sign * change / own) / OWN_SHARE
        return float(min(both, alone, 1))

    drop_p, gain_p = p_value(1), p_value(-1)
    smallest, degrees = _detectable(alpha * (1 - OWN_SHARE), pooled, error), float(pooled)
    if min(runs) > 1:
        parts = [max(float(side.var(ddof=1)), least) / len(side) for side in (base, new)]
        degrees = sum(parts) ** 2 / sum(part**2 / (count - 1) for part, count in zip(parts, runs, strict=True))
        error = sqrt(sum(parts))
        smallest = max(smallest, _detectable(level, degrees, error))
    return _Evidence(error, degrees, variance, drop_p, gain_p, smallest)


def _detectable(alpha: float, degrees: float, error: float) -> float:
    """The drop that a t-test at level `alpha` sees with power 0.95, by the noncentral t distribution."""
    return float(special.nctdtrinc(degrees, 1 - POWER, special.stdtrit(degrees, 1 - alpha))) * error


def _seeds_needed(variance: float, before: int, alpha: float, margin: float) -> int:
    def seen_by(runs: int) -> float:
        beside = max(runs, before)
        return _detectable(alpha * (1 - OWN_SHARE), runs + beside - 2, sqrt(variance * (1 / runs + 1 / beside)))

    return bisect_left(range(MAX_SEEDS), True, lo=MIN_SEEDS, key=lambda runs: seen_by(runs) <= margin)
