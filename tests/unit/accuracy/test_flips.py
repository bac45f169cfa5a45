"""Flipped pictures against enumerations of all ways to share the runs out."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convspec.accuracy import flips


def test_flips_are_ordered_by_how_many_runs_agree_on_them() -> None:
    base = [[1, 1, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]]
    new = [[1, 0, 1, 0, 1, 0], [1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]]
    flipped = flips.flips(base, new)
    assert flipped.pictures == (2, 1, 4, 0)
    assert flipped.changes == pytest.approx((1, -2 / 3, 2 / 3, -1 / 3))


@given(arrays.arrays(bool, (6, 20)), st.integers(1, 5))
def test_flip_rates_and_p_value_follow_from_all_pairs_and_splits(right: np.ndarray, cut: int) -> None:
    def rates(one: list[int]) -> tuple[float, float, int, float]:
        pairs = [(i in one, j in one, float(np.mean(right[i] != right[j]))) for i, j in combinations(range(6), 2)]
        other = [i for i in range(6) if i not in one]
        complete = right[one].all(axis=0) & ~right[other].any(axis=0)
        complete |= right[other].all(axis=0) & ~right[one].any(axis=0)
        across = float(np.mean([rate for i, j, rate in pairs if i != j]))
        distance = float(((right[one].mean(axis=0) - right[other].mean(axis=0)) ** 2).sum())
        sides = [[rate for i, j, rate in pairs if (i, j) == (side, side)] for side in (True, False)]
        return across, float(np.mean([np.mean(side) for side in sides if side])), int(complete.sum()), distance

    flipped = flips.flips(right[:cut], right[cut:])
    across, within, complete, distance = rates(list(range(cut)))
    splits = [rates(list(one)) for one in combinations(range(6), cut)]
    assert (flipped.between, flipped.within, flipped.complete) == pytest.approx((across, within, complete))
    assert flipped.p_value == pytest.approx(np.mean([other >= distance - 1e-9 for *_, other in splits]))
    assert flipped.expected == pytest.approx(np.mean([flipped for _, _, flipped, _ in splits]))


def random_runs(runs: int, pictures: int = 40) -> np.ndarray:
    return np.random.default_rng(0).random((runs, pictures)) < 0.9


def crossing_pairs(splits: np.ndarray, right: np.ndarray) -> np.ndarray:
    new, old = splits @ right, (1 - splits) @ right
    size = splits[0].sum()
    return (new * (len(right) - size - old) + (size - new) * old).sum(axis=1)


def all_splits(runs: int, size: int) -> np.ndarray:
    """All ways to choose so many of the runs, the last ones last; 1 for those chosen."""
    return np.array([np.isin(np.arange(runs), chosen).astype(int) for chosen in combinations(range(runs), size)])


def test_of_more_splits_than_are_counted_out_those_of_seed_0_are_drawn() -> None:
    """Eight runs against eight: 12,870 ways, of which 10,000 are drawn."""
    right, splits = random_runs(16), all_splits(16, 8)
    right[8:, :4] &= np.random.default_rng(1).random((8, 4)) < 0.8
    actual = crossing_pairs(splits[-1:], right)
    drawn = np.random.default_rng(0).permuted(np.repeat(splits[-1:], 10_000, axis=0), axis=1)
    drawn[0] = splits[-1]
    estimate = flips.flips(right[:8], right[8:]).p_value
    assert estimate == np.mean(crossing_pairs(drawn, right) >= actual)
    p_value = np.mean(crossing_pairs(splits, right) >= actual)
    assert 0.05 < p_value < 0.95
    assert estimate == pytest.approx(p_value, abs=4 * np.sqrt(p_value * (1 - p_value) / 10_000))


def test_as_many_splits_as_the_limit_are_all_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five runs against five: 252 ways."""
    right, splits = random_runs(10), all_splits(10, 5)
    monkeypatch.setattr(flips, "MAX_SPLITS", 252)
    pairs = crossing_pairs(splits, right)
    assert flips.flips(right[:5], right[5:]).p_value == np.mean(pairs >= pairs[-1])


def test_the_actual_split_is_among_those_drawn() -> None:
    """Otherwise sides that could not be further apart have p = 0: only one of 1,352,078 pairs of splits is as far."""
    assert flips.flips(np.ones((12, 40)), np.zeros((12, 40))).p_value == 1 / 10_000


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [(4, 4, "cannot tell"), (5, 5, "chance"), (6, 3, "cannot tell"), (7, 3, "chance"), (99, 1, "chance")],
)
def test_a_hundred_ways_to_share_the_runs_out_can_tell_chance(before: int, after: int, outcome: str) -> None:
    right = random_runs(before + after)
    right[-1] = right[0]
    assert flips.flips(right[:before], right[before:]).outcome == outcome


@pytest.mark.parametrize(("before", "outcome"), [(98, "cannot tell"), (99, "change")])
def test_a_new_run_unlike_all_others_is_a_change_from_99_on(before: int, outcome: str) -> None:
    assert flips.flips(random_runs(before), np.zeros((1, 40), bool)).outcome == outcome


def test_hundreds_of_runs_have_more_ways_than_a_float_can_count() -> None:
    right = random_runs(1040)
    assert flips.flips(right[:520], right[520:]).complete == 0


@pytest.mark.parametrize(("within", "text"), [(0.1, "10.0 %"), (None, "unknown")])
def test_flips_read_as_one_line(within: float | None, text: str) -> None:
    flipped = flips.Flips("change", 0.2, within, 0.00412, (3, 8), (1.0, -0.5), 1, 0.34)
    assert str(flipped) == (
        f"change: 20.0 % of pictures flip from the baseline to a new run, {text} between runs of one side "
        "(p = 0.0041); 1 flipped in all runs, 0.3 expected by chance"
    )
