"""The gate of an accuracy against SciPy's own tests: its rule, and what it says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from convspec.accuracy import flips, gate, measures

SIDE = st.integers(1, 4).flatmap(lambda runs: arrays.arrays(bool, (runs, 30)))


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
    """But to the last bit, as sums of floats follow it."""
    order = np.random.default_rng(0).permutation(base.shape[1])
    here, there = (vars(gate.gate(*sides)) for sides in ((base, new), (base[:, order], new[:, order])))
    for name, value in here.items():
        expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert there[name] == expected, name


@given(SIDE, SIDE)
def test_a_side_that_is_no_less_accurate_is_never_regressed(base: np.ndarray, new: np.ndarray) -> None:
    lower, higher = sorted([base, new], key=np.mean)
    assert gate.gate(lower, higher).outcome != "regressed"


@given(SIDE, SIDE)
def test_runs_that_are_all_right_on_the_same_pictures_as_before_pass(base: np.ndarray, more: np.ndarray) -> None:
    for before, after in ((base, base), (np.vstack([base, more]), base), (base[:1], base[:1].repeat(2, axis=0))):
        assert gate.gate(before, after).outcome == "pass"


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
@pytest.mark.parametrize(("before", "outcome"), [(1, "underpowered"), (2, "underpowered"), (5, "regressed")])
def test_new_runs_beside_unchanged_ones_are_not_taken_for_unchanged(before: int, outcome: str) -> None:
    base = runs(*[940] * before)
    verdict = gate.gate(base, np.vstack([base, runs(*[470] * 5)]))
    assert (verdict.outcome, verdict.note == ONE_RUN) == (outcome, before == 1)


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
@pytest.mark.parametrize(("before", "steady"), [(3, False), (12, False), (20, True)])
def test_as_many_seeds_as_needed_see_the_margin_and_one_fewer_do_not(spread: int, before: int, steady: bool) -> None:
    sides = runs(*np.resize([900, 901 if steady else 900 + spread], before)), runs(892, 892 + spread, 892)
    needed = gate.gate(*sides).seeds_needed
    variances = np.array([side.mean(axis=1).var(ddof=1) for side in sides])

    def power(seeds: int) -> float:
        counts = np.maximum(seeds, [len(side) for side in sides])
        parts, pooled = variances / counts, counts.sum() - 2
        tests = (
            (0.0009, pooled, variances @ (counts - 1) / pooled * (1 / counts).sum()),
            (0.05, parts.sum() ** 2 / (parts**2 / (counts - 1)).sum(), parts.sum()),
        )
        return min(
            float(stats.nct.sf(stats.t.isf(level, degrees), degrees, 0.01 / np.sqrt(squared)))
            for level, degrees, squared in tests
        )

    assert needed is not None
    assert power(needed - 1) < 0.95 <= power(needed) + 1e-6


def test_at_least_three_seeds_are_needed_however_little_they_spread() -> None:
    assert gate.gate(runs(*[900, 901] * 6), runs(850)).seeds_needed == 3


def test_no_number_is_given_where_not_even_a_million_seeds_would_do() -> None:
    verdict = gate.gate(runs(100, 900), runs(200, 900), margin=0.001)
    assert (verdict.outcome, verdict.seeds_needed) == ("underpowered", None)
    assert "would see" not in str(verdict)


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
    assert (verdict.low, verdict.high) == pytest.approx((student.low, student.high), abs=1e-3), "of many pictures"
    assert verdict.outcome == outcome
    assert verdict.seeds_needed is None
    assert verdict.p_value == pytest.approx(stats.binomtest(worse, worse + better, alternative="greater").pvalue)


@pytest.mark.parametrize("lost", [0, 1, 3, 20])
def test_where_pictures_are_only_lost_the_interval_of_the_drop_is_wilsons(lost: int) -> None:
    verdict = gate.gate([np.ones(20, bool)] * 2, [np.arange(20) >= lost] * 2)
    wilson = stats.binomtest(lost, 20).proportion_ci(0.9, "wilson")
    none = stats.binomtest(0, 20).proportion_ci(0.9, "wilson").high  # of those that could have been won
    assert verdict.low == pytest.approx(-wilson.high)
    assert verdict.high == pytest.approx(-lost / 20 + np.hypot(lost / 20 - wilson.low, none))


@pytest.mark.parametrize(("won", "lost"), [(1, 1), (3, 2), (9, 8)])
def test_the_interval_knows_that_what_is_won_cannot_be_lost(won: int, lost: int) -> None:
    """MOVER, with the correlation that both have among the pictures."""
    place, (gain, loss) = np.arange(20), (won / 20, lost / 20)
    verdict = gate.gate([place >= won] * 2, [place < 20 - lost] * 2)
    of_won, of_lost = (stats.binomtest(count, 20).proportion_ci(0.9, "wilson") for count in (won, lost))
    correlation = np.corrcoef(place < won, place >= 20 - lost)[0, 1]
    for bound, first, second in (
        (verdict.low, gain - of_won.low, of_lost.high - loss), (verdict.high, of_won.high - gain, loss - of_lost.low)
    ):  # fmt: skip
        distance = np.sqrt(first**2 + second**2 - 2 * correlation * first * second)
        assert abs(bound - (gain - loss)) == pytest.approx(distance)


def test_few_pictures_are_judged_with_their_degrees_of_freedom() -> None:
    base, new = np.arange(20) >= 3, np.arange(20) < 17
    verdict = gate.gate([base] * 2, [new] * 2)
    assert verdict.smallest_drop is not None
    power = stats.nct.sf(stats.t.isf(0.001, 19), 19, verdict.smallest_drop / stats.sem(new.astype(int) - base))
    assert power == pytest.approx(0.95, abs=1e-3)


def test_where_no_picture_flips_ten_all_one_way_would_have_been_seen() -> None:
    """Their p is 1/1024."""
    base = np.arange(100) < 10
    assert gate.gate([base] * 2, [base] * 2).smallest_drop == 10 / 100


@pytest.mark.parametrize("weights", [None, measures.picture_weights(np.arange(1000) < 100)])
@pytest.mark.parametrize("new", [runs(880), runs(880)[[0, 0]], runs(880, 885)], ids=["one run", "equal", "different"])
def test_a_verdict_is_of_pythons_own_numbers(new: np.ndarray, weights: np.ndarray | None) -> None:
    """Which pytest-xdist sends from process to process; it fails on NumPy's."""
    verdict = gate.gate(runs(900)[[0] * len(new)], new, weights=weights)
    assert {type(value) for value in vars(verdict).values()} <= {str, int, float, tuple, type(None)}


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
        (runs(900, 904, 890), runs(900, 904), "right on the same pictures, seed by seed"),
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
