"""The gate of an accuracy against SciPy's own tests, and its error rates by simulation from real runs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from convspec.accuracy import baselines, flips, gate, measures

RUNS = baselines.read(Path(__file__).parents[3] / "fixtures" / "baselines")
SIDE = st.integers(1, 4).flatmap(lambda runs: arrays.arrays(bool, (runs, 30)))


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
    ("rung", "spread"),
    [("feature_extraction", 1), ("feature_extraction", 4), ("from_scratch", 1), ("from_scratch", 2)],
)
def test_a_drop_by_the_margin_passes_at_most_5_times_in_100(rung: str, spread: float, experiments: int) -> None:
    assert at_most(RUNGS[rung].outcomes(experiments, 0.01, spread)["pass"], experiments, 0.05)


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


# The rule.


def test_a_change_by_the_margin_neither_passes_nor_is_suspicious() -> None:
    base, new = runs(900, 902, 901), runs(897, 899, 894)
    margin = -gate.gate(base, new).low
    assert gate.gate(base, new, margin=margin).outcome != "pass"
    assert gate.gate(base, new, margin=float(np.nextafter(margin, 1))).outcome == "pass"
    base, new = runs(800, 802, 798), runs(900, 902, 898)
    gain = gate.gate(base, new).change
    assert not gate.gate(base, new, margin=gain).warning
    warning = gate.gate(base, new, margin=float(np.nextafter(gain, 0))).warning
    assert warning.startswith("suspiciously good (+10.0 points): are test pictures among the training pictures")


@given(SIDE, SIDE)
def test_the_order_of_pictures_makes_no_difference(base: np.ndarray, new: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(base.shape[1])
    assert gate.gate(base[:, order], new[:, order]) == gate.gate(base, new)


@given(SIDE, SIDE)
def test_a_side_that_is_no_less_accurate_is_never_regressed(base: np.ndarray, new: np.ndarray) -> None:
    lower, higher = sorted([base, new], key=np.mean)
    assert gate.gate(lower, higher).outcome != "regressed"


@given(SIDE, SIDE)
def test_the_same_predictions_seed_by_seed_pass_beside_more_seeds_too(base: np.ndarray, more: np.ndarray) -> None:
    both = np.vstack([base, more])
    assert {gate.gate(*sides).outcome for sides in ((base, base), (base, both), (both, base))} == {"pass"}


ONE_RUN = "a side of one run says nothing of its variance between seeds"


def runs(*right: int, pictures: int = 1000) -> np.ndarray:
    """Runs that are right on so many pictures; which ones differs from run to run."""
    return np.array([np.roll(np.arange(pictures) < count, 7 * number) for number, count in enumerate(right)])


@given(*[st.lists(st.integers(850, 950), min_size=2, max_size=6)] * 2)
def test_the_p_value_is_scipys_t_test_and_the_interval_scipys_welch(before: list[int], after: list[int]) -> None:
    before, after = [*before, min(before) - 9], [*after, max(after) + 9]  # no side without variance
    verdict = gate.gate(runs(*before), runs(*after))
    base, new = np.array(before) / 1000, np.array(after) / 1000
    pooled = stats.ttest_ind(new, base, alternative="less")
    welch = stats.ttest_ind(new, base, equal_var=False).confidence_interval(0.9)
    error = base.std(ddof=1) * np.sqrt(1 / len(base) + 1 / len(new))
    own = stats.t.cdf((new.mean() - base.mean()) / error, len(base) - 1)
    p_value = min(pooled.pvalue / 0.9, own / 0.1, 1)
    assert verdict.p_value == pytest.approx(p_value, rel=1e-6)
    assert (verdict.low, verdict.high) == pytest.approx((welch.low, welch.high), rel=1e-6, abs=1e-9)
    assert (verdict.outcome == "pass") == (welch.low > -0.01)
    assert (verdict.outcome == "regressed") == (welch.low <= -0.01 and welch.high < 0 and p_value <= 0.001)


@pytest.mark.parametrize(("drop", "p_value", "outcome"), [(20, 0.0044, "underpowered"), (35, 0.00056, "regressed")])
def test_a_drop_is_regressed_from_a_p_value_of_one_in_1000(drop: int, p_value: float, outcome: str) -> None:
    verdict = gate.gate(runs(905, 900, 895), runs(905 - drop, 900 - drop, 895 - drop))
    assert verdict.p_value == pytest.approx(p_value, rel=0.1)
    assert verdict.outcome == outcome


def test_a_run_beside_several_takes_their_variance_but_is_never_regressed() -> None:
    verdict = gate.gate(runs(900, 904, 896, 902, 898), runs(860))
    deviation = np.std([0.900, 0.904, 0.896, 0.902, 0.898], ddof=1)
    assert verdict.p_value == pytest.approx(stats.t.cdf(-0.04 / deviation / np.sqrt(1 + 1 / 5), 4) / 0.9, rel=1e-6)
    assert (verdict.outcome, verdict.smallest_drop) == ("underpowered", None)
    assert gate.gate(runs(900, 904, 896, 902, 898), runs(905)).outcome == "pass"


def test_a_drop_that_scatters_the_runs_does_not_hide_behind_the_scatter() -> None:
    """As a tenth of the training pictures does at mini: the variance of both sides together would hide it."""
    base, new = runs(900, 903, 897, 901, 899), runs(880, 850, 865, 840, 885)
    pooled = stats.ttest_ind(new.mean(axis=1), base.mean(axis=1), alternative="less")
    assert pooled.pvalue > 0.001
    assert gate.gate(base, new).outcome == "regressed"


def test_a_p_value_that_equals_the_level_is_beyond_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten flips, all one way, have McNemar's p = 1/1024."""
    monkeypatch.setattr(gate, "FALSE_ALARMS", 1 / 1024)
    higher, lower = runs(90, pictures=100)[[0, 0]], runs(80, pictures=100)[[0, 0]]
    assert gate.gate(higher, lower).outcome == "regressed"
    assert gate.gate(lower, higher).warning


@pytest.mark.parametrize("before", [(900, 901), (899, 900, 901), (899, 900, 900, 901, 902)])
@pytest.mark.parametrize("after", [(700, 900), (700, 750, 800, 850)])
def test_beside_scattered_runs_the_variance_of_the_baseline_counts(
    before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    error = np.std(before, ddof=1) * np.sqrt(1 / len(before) + 1 / len(after))
    own = stats.t.cdf((np.mean(after) - np.mean(before)) / error, len(before) - 1) / 0.1
    assert own < stats.ttest_ind(after, before, alternative="less").pvalue / 0.9
    assert gate.gate(runs(*before), runs(*after)).p_value == pytest.approx(own, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_baseline_of_one_run_takes_the_variance_of_the_new_runs() -> None:
    new = np.array([0.866, 0.870, 0.874])
    p_value = stats.t.cdf(-0.03 / new.std(ddof=1) / np.sqrt(1 + 1 / 3), 2) / 0.9
    assert gate.gate(runs(900), runs(866, 870, 874)).p_value == pytest.approx(p_value, rel=1e-6)


def test_two_runs_beside_ten_are_judged_by_their_own_spread_too() -> None:
    base = runs(*[899, 901] * 5)
    wide, narrow = gate.gate(base, runs(870, 890)), gate.gate(base, runs(879, 881))
    assert wide.p_value < 0.001
    assert wide.low < wide.change < 0 < wide.high
    assert (wide.outcome, narrow.outcome) == ("underpowered", "regressed")
    assert wide.smallest_drop is not None
    assert wide.smallest_drop > 0.05


def test_each_of_several_looks_has_its_share_of_both_errors() -> None:
    base, new = runs(902, 900, 898), runs(882, 880, 878)
    assert 0.001 / 9 < gate.gate(base, new).p_value < 0.001
    assert [gate.gate(base, new, looks=looks).outcome for looks in (1, 9)] == ["regressed", "underpowered"]
    new = runs(901, 895, 896)
    verdict = gate.gate(base, new, looks=5)
    welch = stats.ttest_ind(new.mean(axis=1), base.mean(axis=1), equal_var=False).confidence_interval(0.98)
    assert (verdict.low, verdict.high) == pytest.approx((welch.low, welch.high))
    assert (gate.gate(base, new).outcome, verdict.outcome) == ("pass", "underpowered")


def test_a_drop_within_the_margin_passes_and_never_counts_as_seen() -> None:
    base, new = runs(901, 900, 899, 900), runs(886, 885, 885, 884)
    assert gate.gate(base, new).outcome == "regressed"
    assert gate.gate(base, new, margin=0.02).outcome == "pass"
    assert gate.gate(base, base[::-1]).smallest_drop == 0.01


@given(st.lists(st.integers(850, 900), min_size=2, max_size=6), st.integers(1, 3))
def test_the_smallest_drop_would_have_been_seen_95_times_in_100(right: list[int], looks: int) -> None:
    right = [*right, min(right) - 30]
    verdict = gate.gate(runs(*right), runs(*right[::-1]), looks=looks)
    degrees, error = 2 * len(right) - 2, np.std(right, ddof=1) / 1000 * np.sqrt(2 / len(right))
    drop = verdict.baseline if verdict.smallest_drop is None else verdict.smallest_drop
    power = stats.nct.sf(stats.t.isf(0.0009 / looks, degrees), degrees, drop / error)
    assert power == pytest.approx(0.95, abs=1e-3) if verdict.smallest_drop else power < 0.951, f"power {power}"


@pytest.mark.parametrize("spread", [8, 9, 14, 30])
@pytest.mark.parametrize("before", [3, 12])
def test_as_many_seeds_as_needed_see_the_margin_and_one_fewer_do_not(spread: int, before: int) -> None:
    sides = runs(*np.resize([900, 900 + spread], before)), runs(892, 892 + spread, 892)
    verdict = gate.gate(*sides)
    assert verdict.seeds_needed is not None
    squares = sum(side.mean(axis=1).var() * len(side) for side in sides)

    def power(seeds: int) -> float:
        beside = max(seeds, before)
        degrees, error = seeds + beside - 2, np.sqrt(squares / (before + 1) * (1 / seeds + 1 / beside))
        return float(stats.nct.sf(stats.t.isf(0.0009, degrees), degrees, 0.01 / error))

    assert power(verdict.seeds_needed - 1) < 0.95 <= power(verdict.seeds_needed) + 1e-6


def test_at_least_three_seeds_are_needed_however_little_they_spread() -> None:
    assert gate.gate(runs(*[900, 901] * 6), runs(850)).seeds_needed == 3


# Where there is no variance between seeds to estimate.


def test_single_runs_need_the_seeds_that_their_flips_suggest() -> None:
    base, new = runs(900), runs(885)
    needed, error = gate.gate(base, new, margin=0.005).seeds_needed, stats.sem(new[0].astype(int) - base[0])

    def power(seeds: int) -> float:
        degrees = 2 * seeds - 2
        return float(stats.nct.sf(stats.t.isf(0.0009, degrees), degrees, 0.005 / error * np.sqrt(seeds)))

    assert needed is not None
    assert power(needed - 1) < 0.95 <= power(needed)


@given(*[arrays.arrays(bool, (1, 30))] * 2)
def test_one_run_a_side_is_never_regressed_and_has_mcnemars_p_value(base: np.ndarray, new: np.ndarray) -> None:
    verdict, worse, better = gate.gate(base, new), int((base & ~new).sum()), int((~base & new).sum())
    assert verdict.outcome == ("pass" if worse == better == 0 else "underpowered")
    if worse + better:
        oracle = stats.binomtest(worse, worse + better, alternative="greater").pvalue
        assert verdict.p_value == pytest.approx(oracle)
        assert "nothing of its variance between seeds" in verdict.note
    assert verdict.smallest_drop is None


@pytest.mark.parametrize(
    ("worse", "better", "outcome"), [(4, 4, "pass"), (9, 0, "pass"), (40, 10, "regressed"), (40, 21, "underpowered")]
)
def test_runs_without_chance_are_judged_by_the_pictures(worse: int, better: int, outcome: str) -> None:
    base = np.arange(2000) >= better
    new = np.arange(2000) < 2000 - worse
    verdict = gate.gate([base] * 3, [new] * 2)
    student = stats.ttest_1samp(new.astype(int) - base, 0).confidence_interval(0.9)
    assert (verdict.low, verdict.high) == pytest.approx((student.low, student.high))
    assert verdict.outcome == outcome
    assert verdict.seeds_needed is None
    assert verdict.p_value == pytest.approx(stats.binomtest(worse, worse + better, alternative="greater").pvalue)


def test_few_pictures_are_judged_with_their_degrees_of_freedom() -> None:
    base, new = np.arange(20) >= 3, np.arange(20) < 17
    flipped = new.astype(int) - base
    verdict, student = gate.gate([base] * 2, [new] * 2), stats.ttest_1samp(flipped, 0).confidence_interval(0.9)
    assert (verdict.low, verdict.high) == pytest.approx((student.low, student.high))
    assert verdict.smallest_drop is not None
    power = stats.nct.sf(stats.t.isf(0.001, 19), 19, verdict.smallest_drop / stats.sem(flipped))
    assert power == pytest.approx(0.95, abs=1e-3)


def test_where_no_picture_flips_the_error_is_that_of_rounding_to_one() -> None:
    """A uniform distribution of width 1 has the variance 1/12; ten flips, all one way, have p = 1/1024."""
    base = np.arange(100) < 10
    verdict = gate.gate([base] * 2, [base] * 2)
    half = stats.t.ppf(0.95, 99) * np.sqrt(1 / 12) / 100
    assert (verdict.low, verdict.high) == pytest.approx((-half, half))
    assert verdict.smallest_drop == 10 / 100


def test_runs_of_equal_accuracy_have_the_error_of_rounding_at_least() -> None:
    verdict = gate.gate(runs(900, 900), runs(899, 899))
    half = stats.t.ppf(0.95, 2) * np.sqrt((1 / 2 + 1 / 2) / 12) / 1000
    assert (verdict.low, verdict.high) == pytest.approx((-0.001 - half, -0.001 + half))
    assert verdict.outcome == "pass"


def test_a_rare_class_raises_no_more_false_alarms_than_others() -> None:
    """In the balanced accuracy one of four pictures counts as much as an eighth of all: seeds often agree by chance."""
    rng = np.random.default_rng(0)
    labels = np.arange(500) < 4
    right = np.where(labels, 0.8, 0.95)
    weights = measures.picture_weights(labels)
    sides = rng.random((1000, 2, 3, 500)) < right
    outcomes = [gate.gate(before, after, weights=weights).outcome for before, after in sides]
    assert outcomes.count("regressed") <= 4, "one is expected; five or more come in 4 of 1,000 such simulations"


# What it says.


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({}, "3.2 points"),
        ({"smallest_drop": None, "note": "a note", "warning": "a warning"}, "none; a note; a warning"),
        ({"seeds_needed": 5}, "3.2 points; 2 more baseline runs and 1 more runs would see 6.0"),
        ({"seeds_needed": 4}, "3.2 points; 1 more baseline runs would see 6.0"),
        ({"seeds_needed": 3}, "3.2 points; as many as these would see 6.0"),
    ],
)
def test_a_verdict_reads_as_one_line(fields: dict[str, Any], end: str) -> None:
    verdict = gate.AccuracyVerdict(
        outcome="underpowered",
        runs=(3, 4),
        baseline=0.905,
        new=0.845,
        change=-0.06,
        low=-0.1,
        high=0.06,
        p_value=0.1394,
        margin=0.06,
        smallest_drop=0.0324,
        seeds_needed=None,
        note="",
        warning="",
    )
    assert str(replace(verdict, **fields)) == (
        "underpowered: 0.845 against 0.905, -6.0 points [-10.0, +6.0], p = 0.14; runs: 4 against 3; "
        f"smallest drop that would have been seen: {end}"
    )


@pytest.mark.parametrize(
    ("base", "new", "note"),
    [
        (runs(900, 904), runs(880, 885), ""),
        (runs(900, 904), runs(880), ONE_RUN),
        (
            runs(900),
            runs(880),
            f"{ONE_RUN}, which may be why these differ (McNemar's p = 9.5e-07) and adds to the runs needed",
        ),
        (
            runs(900)[[0, 0]],
            runs(880)[[0, 0]],
            "all runs of a side are the same: more pictures would tell more, more seeds would not",
        ),
        (runs(900, 904), runs(900, 904, 890), "right on the same pictures, seed by seed"),
    ],
)
def test_the_note_says_what_the_verdict_cannot_rest_on(base: np.ndarray, new: np.ndarray, note: str) -> None:
    assert gate.gate(base, new).note == note


@pytest.mark.parametrize(
    ("sides", "suspicious"),
    [
        ((runs(900, 902, 901), runs(950, 952, 948)), True),
        ((runs(900, 902, 901), runs(905, 906, 904)), False),
        ((runs(900, 960, 930), runs(950, 970, 948)), False),
        ((runs(900, 905, 895), runs(920, 925, 915)), False),
        ((runs(985), runs(1000)), True),
        ((runs(993, 997), runs(1000, 1000)), False),
        ((runs(900, 980), runs(1000, 1000)), True),
    ],
)
def test_a_gain_beyond_chance_or_to_100_percent_is_suspicious(
    sides: tuple[np.ndarray, np.ndarray], suspicious: bool
) -> None:
    verdict = gate.gate(*sides)
    causes = ("test pictures among the training pictures", "leak")
    assert all(cause in str(verdict) for cause in causes) == bool(verdict.warning) == suspicious
    assert verdict.outcome != "regressed"


@pytest.mark.parametrize(
    ("base", "new", "options", "message"),
    [
        ([True, False], [[True, False]], {}, r"baseline must be a matrix of runs.* got shape \(2,\)"),
        ([[True, False]], np.empty((0, 2)), {}, r"new must be a matrix of runs.* got shape \(0, 2\)"),
        ([[True]], [[True]], {}, r"baseline must be .* at least two pictures, got shape \(1, 1\)"),
        ([[1.0, np.nan]], [[1, 1]], {}, "baseline must hold right or wrong .* got nan"),
        ([[1, 0]], [[0.98, 1]], {}, "new must hold right or wrong .* got 0.98"),
        ([[1, 0]], [[1, 0, 1]], {}, "both sides must have the same pictures, got 2 and 3"),
        ([[1, 0]], [[1, 0]], {"margin": 0}, "margin must lie between 0 and 1 .* got 0 and 1"),
        ([[1, 0]], [[1, 0]], {"margin": 1}, "margin must lie between 0 and 1 .* got 1 and 1"),
        ([[1, 0]], [[1, 0]], {"margin": float("nan")}, "margin must lie between 0 and 1 .* got nan"),
        ([[1, 0]], [[1, 0]], {"looks": 0}, "looks be at least 1, got 0.01 and 0"),
    ],
)
def test_impossible_sides_margins_and_looks_are_refused(
    base: Any, new: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gate.gate(base, new, **options)
    if not options:
        with pytest.raises(ValueError, match=message):
            flips.flips(base, new)


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
