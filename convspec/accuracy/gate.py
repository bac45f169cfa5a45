"""Gate of an accuracy: pass, regressed or underpowered.

Both sides are boolean matrices of runs by pictures, true where the run is right: the same pictures in the same order,
the runs in the order of their seeds. Each picture is its own control, so the variance between seeds is all that counts.

- *regressed* requires one-sided t-tests at 0.001 and a 90 % interval below 0. Nine tenths of that level go to the test
  with the pooled variance, the strongest for a shift; one goes to that with the baseline's own, as a fault may scatter
  the new runs. Equal seeds are not paired, which would halve the degrees of freedom.
- *pass* requires one-sided 95 % confidence that the drop is below the margin (non-inferiority), by Welch's t; or that
  each new run is right on the same pictures as the baseline's of that place, however few these are.
- *underpowered* is everything else.

Where all runs of a side are the same (a fit without chance), chance is in the pictures alone: McNemar's exact test
(1947, doi:10.1007/BF02295996), and an interval of the pictures won and lost that holds for few of them, too (MOVER:
Zou and Donner 2008, doi:10.1002/sim.3095). A side of one run has no known variance otherwise: it may pass beside
several, but is never regressed. Each of several looks at growing runs spends an equal share of both error rates
(Bonferroni's inequality; Lan and DeMets 1983, doi:10.1093/biomet/70.3.659).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from convspec.accuracy.statistics import CONFIDENCE, validate_sides, welch, wilson

Outcome = Literal["pass", "regressed", "underpowered"]
FALSE_ALARMS = 0.001
POWER = 0.95
MARGIN = 0.01
OWN_SHARE = 0.1  # of the level, for the test with the variance of the baseline alone
MIN_SEEDS, MAX_SEEDS = 3, 1_000_000
SIGN_DRAWS = 100_000  # of the sign test for pictures of different weights
SUSPICION = (
    "suspiciously good ({:+.1f} points): are test pictures among the training pictures (the same files, copies, crops, "
    "frames of one scene), does the label leak into the input, or is the base one that has seen these pictures?"
)


@dataclass(frozen=True)
class AccuracyVerdict:
    """Outcome of one gate and what it rests on; accuracies and their differences are from 0 to 1."""

    outcome: Outcome
    runs: tuple[int, int]  # of the baseline, and new
    baseline: float  # mean accuracy
    new: float
    change: float  # new less baseline
    low: float  # of the 90 % interval of the change (wider for one of several looks); decides on "pass"
    high: float
    p_value: float  # of no drop
    margin: float
    smallest_drop: float | None  # that would have been "regressed" 95 times in 100; None where no drop would
    seeds_needed: int | None  # a side, to see a drop by the margin as often; None where more would not help
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
        if (needed := self.seeds_needed) is not None:
            sides = zip(self.runs, ("baseline runs", "runs"), strict=True)
            more = " and ".join(f"{needed - runs} more {side}" for runs, side in sides if runs < needed)
            parts.append(f"{more or 'as many as these'} would see {100 * self.margin:.1f}")
        return "; ".join([*parts, *filter(None, (self.note, self.warning))])


def gate(
    baseline: ArrayLike, new: ArrayLike, *, margin: float = MARGIN, looks: int = 1, weights: np.ndarray | None = None
) -> AccuracyVerdict:
    """Return the verdict on whether `new` is as accurate as `baseline`; see the module for the rule.

    Args:
        baseline: Right or wrong, as a matrix of runs by pictures.
        new: The same of the new runs.
        margin: The drop that is tolerated, between 0 and 1.
        looks: Number of verdicts asked for while runs are added, this one included; set before the first.
        weights: Of each picture in the accuracy, 1 on average, see `measures.picture_weights`; None for equal ones.

    Raises:
        ValueError: For sides that are no such matrices, a margin outside (0, 1) or fewer than one look.
    """
    if not 0 < margin < 1 or looks < 1:
        raise ValueError(f"margin must lie between 0 and 1 and looks be at least 1, got {margin} and {looks}")
    base, fresh = validate_sides(baseline, new)
    alpha, level, shared = FALSE_ALARMS / looks, (1 - CONFIDENCE) / looks, min(len(base), len(fresh))
    accuracies = np.average(base, axis=1, weights=weights), np.average(fresh, axis=1, weights=weights)
    before, after = (float(side.mean()) for side in accuracies)
    constant = bool((base == base[0]).all() and (fresh == fresh[0]).all())
    if constant:
        evidence = _by_pictures(base[0], fresh[0], alpha, level, weights)
    else:
        unit = (1 if weights is None else float(weights.max())) / base.shape[1]  # what one picture counts at most
        evidence = _by_seeds(*accuracies, unit**2 / 12, alpha, level)
    change, runs, single = after - before, (len(base), len(fresh)), len(base) == len(fresh) == 1
    lone = single or (shared == 1 and not constant)
    note = _note(evidence, single, lone, constant)
    outcome: Outcome = "underpowered"
    if (constant or len(fresh) <= len(base)) and (base[:shared] == fresh[:shared]).all():
        outcome, note = "pass", "right on the same pictures, seed by seed"
    elif evidence.low > -margin and not single:
        outcome = "pass"
    elif evidence.drop_p <= alpha and evidence.high < 0 and not lone:
        outcome = "regressed"
    more_seeds_help = outcome == "underpowered" and (lone or not constant)
    suspicious = change > margin and (evidence.gain_p <= alpha or bool(fresh.all()))
    return AccuracyVerdict(
        outcome=outcome,
        runs=runs,
        baseline=before,
        new=after,
        change=change,
        low=evidence.low,
        high=evidence.high,
        p_value=evidence.drop_p,
        margin=margin,
        smallest_drop=None if lone or evidence.smallest_drop > before else max(evidence.smallest_drop, margin),
        seeds_needed=_seeds_needed(evidence.variances, runs, alpha, level, margin) if more_seeds_help else None,
        note=note,
        warning=SUSPICION.format(100 * change) if suspicious else "",
    )


class _Evidence(NamedTuple):
    low: float  # of the interval of the change
    high: float
    variances: tuple[float, float]  # of one run's accuracy, on each side
    drop_p: float
    gain_p: float
    smallest_drop: float


def _note(evidence: _Evidence, single: bool, lone: bool, constant: bool) -> str:
    if constant and not lone:
        return "all runs of a side are the same: more pictures would tell more, more seeds would not"
    why = f", which may be why these differ (McNemar's p = {evidence.drop_p:.2g}) and adds to the runs needed"
    return f"a side of one run says nothing of its variance between seeds{why * single}" if lone else ""


def _by_pictures(
    base: np.ndarray, new: np.ndarray, alpha: float, level: float, weights: np.ndarray | None
) -> _Evidence:
    shares = np.ones(len(base)) if weights is None else weights
    flipped, pictures = (new.astype(int) - base) * shares, len(base)
    error = sqrt(max(float(flipped.var(ddof=1)), 1 / 12 / pictures) / pictures)
    drop_p, gain_p = (_sign_test(sign * flipped) for sign in (1, -1))
    min_flips = ceil(-log2(alpha)) / pictures * float(shares.max())  # all one way, for the sign test to see them
    smallest = max(_detectable(alpha, pictures - 1, error), min_flips)
    low, high = _interval_over_pictures(new & ~base, base & ~new, shares, level)
    return _Evidence(low, high, (error**2 / 2, error**2 / 2), drop_p, gain_p, smallest)


def _interval_over_pictures(won: np.ndarray, lost: np.ndarray, shares: np.ndarray, level: float) -> tuple[float, float]:
    """Return the interval of the change from Wilson's of what was won and lost, among pictures of equal share each."""
    change, below, above = 0.0, 0.0, 0.0
    for share in np.unique(shares).tolist():
        count = int((shares == share).sum())
        gain, loss = (float(side[shares == share].mean()) for side in (won, lost))
        (gain_low, gain_high), (loss_low, loss_high) = (wilson(rate, count, 1 - 2 * level) for rate in (gain, loss))
        # Both are shares of one sample: what is won can't be lost.
        correlation = sqrt(gain * loss / ((1 - gain) * (1 - loss))) if gain * loss else 0.0
        weight = share * count / len(shares)
        change += weight * (gain - loss)
        below += weight**2 * _squared(gain - gain_low, loss_high - loss, correlation)
        above += weight**2 * _squared(gain_high - gain, loss - loss_low, correlation)
    return change - sqrt(below), change + sqrt(above)


def _squared(first: float, second: float, correlation: float) -> float:
    return first**2 + second**2 + 2 * correlation * first * second


def _sign_test(flipped: np.ndarray) -> float:
    """Return the one-sided p-value of no drop: McNemar's, or by drawn signs where the pictures' weights differ."""
    sizes, counts = np.unique(np.round(np.abs(flipped[flipped != 0]), 9), return_counts=True)
    if len(sizes) < 2:
        return float(special.bdtrc(int((flipped < 0).sum()) - 1, int(counts.sum()), 0.5))
    rng, drawn = np.random.default_rng(0), np.zeros(SIGN_DRAWS)
    for size, count in zip(sizes, counts, strict=True):
        drawn += size * (2 * rng.binomial(count, 0.5, SIGN_DRAWS) - count)
    return (1 + int((drawn <= flipped.sum() + 1e-6).sum())) / (1 + SIGN_DRAWS)


def _by_seeds(base: np.ndarray, new: np.ndarray, min_variance: float, alpha: float, level: float) -> _Evidence:
    """Return the evidence of accuracies of at least one run a side, and two on one."""
    change, runs = float(new.mean() - base.mean()), (len(base), len(new))
    pooled, per_run = sum(runs) - 2, 1 / runs[0] + 1 / runs[1]
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in (base, new))
    error = sqrt(max(squares / pooled, min_variance) * per_run)
    known = [max(float(side.var(ddof=1)), min_variance) for side in (base, new) if len(side) > 1]
    variances = known[0], known[-1]  # a side of one run takes that of the other
    own = sqrt(known[0] * per_run)  # the same as `error` where the baseline is one run

    def p_value(sign: int) -> float:
        both = special.stdtr(pooled, sign * change / error) / (1 - OWN_SHARE)
        alone = special.stdtr(max(runs[0] - 1, 1), sign * change / own) / OWN_SHARE
        return float(min(both, alone, 1))

    drop_p, gain_p = p_value(1), p_value(-1)
    smallest, degrees = _smallest_drop(variances, runs, alpha, level), float(pooled)
    if min(runs) > 1:
        degrees, error = welch(variances, runs)
    half = float(special.stdtrit(degrees, 1 - level)) * error
    return _Evidence(change - half, change + half, variances, drop_p, gain_p, smallest)


def _detectable(alpha: float, degrees: float, error: float) -> float:
    """Return the drop that a t-test at level `alpha` sees with power 0.95, by the noncentral t distribution."""
    return float(special.nctdtrinc(degrees, 1 - POWER, special.stdtrit(degrees, 1 - alpha))) * error


def _smallest_drop(variances: Sequence[float], runs: Sequence[int], alpha: float, level: float) -> float:
    """Return the drop that runs of these variances see: in the test with the pooled one, and in Welch's interval."""
    pooled = sum(runs) - 2
    variance = sum(each * (count - 1) for each, count in zip(variances, runs, strict=True)) / pooled
    smallest = _detectable(alpha * (1 - OWN_SHARE), pooled, sqrt(variance * (1 / runs[0] + 1 / runs[1])))
    return smallest if min(runs) == 1 else max(smallest, _detectable(level, *welch(variances, runs)))


def _seeds_needed(
    variances: Sequence[float], runs: Sequence[int], alpha: float, level: float, margin: float
) -> int | None:
    def sees_margin(seeds: int) -> bool:
        return _smallest_drop(variances, [max(seeds, count) for count in runs], alpha, level) <= margin

    needed = bisect_left(range(MAX_SEEDS), True, lo=MIN_SEEDS, key=sees_margin)
    return needed if needed < MAX_SEEDS else None
