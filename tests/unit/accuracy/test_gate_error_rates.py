"""Error rates of gates and of flips, by simulation from real runs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from convspec.accuracy import baselines, flips, gate, measures

RUNS = baselines.read(Path(__file__).parents[3] / "fixtures" / "baselines")


class Rung(NamedTuple):
    """What runs of a rung look like: in how many of `runs` each test picture was right, and the deviation of the
    accuracy between seeds; `seeds` of the baseline, and new.
    """

    runs: int
    wins: np.ndarray
    deviation: float
    seeds: tuple[int, int]

    def sides(
        self, experiments: int, drop: float = 0.0, spread: float = 1.0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Runs of two sides, the second with `drop` less accuracy and `spread` times the deviation.

        A run is right on as many pictures as a normal accuracy says, and on those that are easiest for it: the
        difficulty that the real runs had (a rate of 0 or 1 drawn in a little), and logistic noise.
        """
        rng = np.random.default_rng(len(self.wins) + int(1e5 * self.deviation))
        easy = np.log((self.wins + 0.02) / (self.runs - self.wins + 0.02))
        pictures, side = len(easy), np.repeat([0, 1], self.seeds)
        for _ in range(experiments):
            accuracy = self.wins.mean() / self.runs - drop * side
            accuracy += self.deviation * np.where(side, spread, 1) * rng.standard_normal(len(side))
            right = np.clip(np.rint(pictures * accuracy), 1, pictures).astype(int)
            ease = easy + rng.logistic(size=(len(side), pictures))
            hardest = np.take_along_axis(np.sort(ease, axis=1), (pictures - right)[:, None], axis=1)
            bits = ease >= hardest
            yield bits[: self.seeds[0]], bits[self.seeds[0] :]

    def outcomes(self, experiments: int, drop: float = 0.0, spread: float = 1.0, **options: Any) -> Counter[str]:
        return Counter(gate.gate(*sides, **options).outcome for sides in self.sides(experiments, drop, spread))


def bits(rung: str, dataset: str) -> np.ndarray:
    """Which pictures the recorded runs got right."""
    runs = [run for run in RUNS if (run.name, run.dataset) == (rung, dataset)]
    return np.array([np.equal(run.predicted, run.labels) for run in runs])


def recorded(right: np.ndarray, step: int = 1) -> Rung:
    """Every `step`th picture of recorded runs, beside which a session trains five seeds at most."""
    wins, deviation = right[:, ::step].sum(axis=0), float(right.mean(axis=1).std(ddof=1))
    return Rung(len(right), wins, deviation, (len(right), min(5, len(right))))


FULL = bits("feature_extraction", "dogs_vs_cats-full")[:3]
AT_MINI = "from_scratch", "augmented", "feature_extraction", "fine_tuned"
RUNGS = {"feature_extraction, full": recorded(FULL)}
RUNGS |= {rung: recorded(bits(rung, "shapes-mini"), step=5) for rung in AT_MINI}
STEADY = ["feature_extraction, full", "feature_extraction", "fine_tuned"]
few_or_many = pytest.mark.parametrize("experiments", [100, pytest.param(10_000, marks=pytest.mark.slow)])


def at_most(count: int, experiments: int, rate: float) -> bool:
    """Whether a true rate of at most `rate` gives such a count at least once in 100 simulations."""
    return stats.binomtest(count, experiments, rate, alternative="greater").pvalue > 0.01


# The error rates.


def test_the_simulated_runs_differ_on_as_many_pictures_as_the_real_ones() -> None:
    rates = [flips.flips(*sides).within or 0 for sides in RUNGS["feature_extraction, full"].sides(50)]
    assert np.mean(rates) == pytest.approx(flips.flips(FULL[:2], FULL[2:]).between, abs=0.006)


@few_or_many
@pytest.mark.parametrize("rung", RUNGS)
def test_at_most_one_gate_in_1000_says_regressed_where_nothing_changed(rung: str, experiments: int) -> None:
    assert at_most(RUNGS[rung].outcomes(experiments)["regressed"], experiments, 0.001)


@few_or_many
@pytest.mark.parametrize(("drop", "power"), [(0.02, 0.95), (0.05, 0.99)])
@pytest.mark.parametrize("rung", STEADY)
def test_a_drop_of_two_points_is_caught_95_and_of_five_99_times_in_100(
    rung: str, drop: float, power: float, experiments: int
) -> None:
    missed = experiments - RUNGS[rung].outcomes(experiments, drop)["regressed"]
    assert at_most(missed, experiments, 1 - power), f"{missed} of {experiments} missed"


@few_or_many
@pytest.mark.parametrize("drop", [0.0, 0.02])
def test_runs_that_spread_too_widely_for_the_margin_are_underpowered(drop: float, experiments: int) -> None:
    """Six points between seeds, as many as the last epoch of `from_scratch` has: two points would take some 400."""
    outcomes = RUNGS["from_scratch"]._replace(deviation=0.06, seeds=(5, 5)).outcomes(experiments, drop)
    assert at_most(experiments - outcomes["underpowered"], experiments, 0.1)


@few_or_many
@pytest.mark.parametrize(
    ("rung", "spread"), [("feature_extraction", 1), ("feature_extraction", 4), ("from_scratch", 1), ("from_scratch", 2)]
)
def test_a_drop_by_the_margin_passes_at_most_5_times_in_100(rung: str, spread: float, experiments: int) -> None:
    assert at_most(RUNGS[rung].outcomes(experiments, 0.01, spread)["pass"], experiments, 0.05)


@pytest.mark.parametrize("rare", [0, 20])
@pytest.mark.parametrize("pictures", [300, 1000])
def test_without_randomness_a_drop_by_the_margin_passes_5_times_in_100(pictures: int, rare: int) -> None:
    """All of whose pictures are lost alike, or those of a rare class, whose share in the balanced accuracy is half."""
    rng, labels, right = (
        np.random.default_rng(pictures + rare),
        np.arange(pictures) < rare,
        np.arange(pictures) % 10 > 0,
    )
    lost, won = (np.where(labels, 0.02, 0.002), np.where(labels, 0, 0.002)) if rare else (0.01, 0)
    chance = np.where(right, lost, won) / np.where(right, 0.9, 0.1)
    weights = measures.picture_weights(labels) if rare else None
    sides = [right ^ (rng.random(pictures) < chance) for _ in range(1000)]
    outcomes = [gate.gate([right] * 2, [new] * 2, weights=weights).outcome for new in sides if (new != right).any()]
    assert at_most(outcomes.count("pass"), 1000, 0.05)


@pytest.mark.parametrize("experiments", [30, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rung", ["fine_tuned", "from_scratch"])
def test_seeds_added_until_the_verdict_is_certain_keep_the_rates(rung: str, experiments: int) -> None:
    """Two seeds a side, and one more each time, up to seven: six looks."""

    def verdict(base: np.ndarray, new: np.ndarray) -> str:
        looks = (gate.gate(base[:seeds], new[:seeds], looks=6).outcome for seeds in range(2, 8))
        return next((outcome for outcome in looks if outcome != "underpowered"), "underpowered")

    seven = RUNGS[rung]._replace(seeds=(7, 7))
    assert at_most(Counter(verdict(*s) for s in seven.sides(experiments))["regressed"], experiments, 0.001)
    assert at_most(Counter(verdict(*s) for s in seven.sides(experiments, 0.01))["pass"], experiments, 0.05)


# Flips.


def test_twenty_pictures_that_turn_wrong_are_regressed_and_the_first_flips() -> None:
    turned = np.flatnonzero(FULL.all(axis=0))[5:400:20]
    new = FULL[::-1].copy()
    new[:, turned] = False
    assert gate.gate(FULL, new).outcome == "regressed"
    flipped = flips.flips(FULL, new)
    assert flipped.pictures[:20] == tuple(turned)
    assert flipped.changes[:20] == (-1.0,) * 20
    assert (flipped.complete, flipped.expected) == (20, 20 * 2 / 20)


@pytest.mark.parametrize("seeds", [5, 9])
@pytest.mark.parametrize("experiments", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_flips_are_called_chance_99_times_in_100_where_nothing_changed(experiments: int, seeds: int) -> None:
    """Nine seeds a side: more splits than are counted out."""
    rung = RUNGS["from_scratch"]._replace(seeds=(seeds, seeds))
    if seeds == 9:
        experiments //= 10
    outcomes = Counter(flips.flips(*sides).outcome for sides in rung.sides(experiments))
    assert set(outcomes) <= {"chance", "change"}
    assert at_most(outcomes["change"], experiments, 0.01)


def test_pictures_that_changed_places_at_the_same_accuracy_are_a_change() -> None:
    base, new = next(recorded(bits("fine_tuned", "shapes-mini")).sides(1))
    swapped = new.copy()
    always, never = (np.flatnonzero((new == right).all(axis=0))[:3] for right in (True, False))
    swapped[:, always], swapped[:, never] = False, True
    assert flips.flips(base, new).outcome == "chance"
    assert flips.flips(base, swapped).outcome == "change"
    assert swapped.mean() == new.mean()


def test_few_runs_cannot_tell_chance_from_change_unless_without_chance() -> None:
    assert flips.flips(FULL, ~FULL).outcome == "cannot tell"
    assert flips.flips(FULL[[0, 0]], FULL[[1, 1]]).outcome == "change"
    assert flips.flips(FULL[[0, 0]], FULL[[0, 0]]).outcome == "cannot tell"


def test_flips_of_single_runs_are_the_pictures_on_which_they_differ() -> None:
    flipped = flips.flips(FULL[:1], FULL[1:2])
    different = np.flatnonzero(FULL[0] != FULL[1])
    assert flipped.pictures == tuple(different)
    assert (flipped.outcome, flipped.between, flipped.within) == ("cannot tell", len(different) / 1000, None)
