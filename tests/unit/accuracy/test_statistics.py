"""Intervals and paired comparisons, against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convspec.accuracy import statistics

ACCURACIES = st.lists(st.floats(0.5, 0.99), min_size=2, max_size=8)


@given(ACCURACIES)
def test_the_interval_over_seeds_is_students_t(accuracies: list[float]) -> None:
    low, high = statistics.interval(accuracies, 100)
    if np.ptp(accuracies) >= 1e-9:
        oracle = stats.ttest_1samp(accuracies, 0).confidence_interval(0.95)
        np.testing.assert_allclose([low, high], [oracle.low, oracle.high], rtol=1e-9)


def test_the_interval_of_one_seed_is_wilsons_over_the_pictures() -> None:
    # 81 of 263, from Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    np.testing.assert_allclose(statistics.interval([81 / 263], 263), (0.2553, 0.3662), atol=5e-5)
    assert statistics.interval([81 / 263] * 3, 263) == statistics.interval([81 / 263], 263), "a fit without chance"
    for right in (0, 4, 10):
        oracle = stats.binomtest(right, 10).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(statistics.interval([right / 10], 10), (oracle.low, oracle.high), atol=1e-12)


@given(ACCURACIES, ACCURACIES)
def test_the_test_of_a_gain_is_scipys_welch_test(lower: list[float], higher: list[float]) -> None:
    p = statistics.probability_of_no_gain(lower, higher)
    if np.ptp(lower) > 1e-6 or np.ptp(higher) > 1e-6:
        oracle = stats.ttest_ind(higher, lower, equal_var=False, alternative="greater").pvalue
        assert p == pytest.approx(oracle, rel=1e-6, abs=1e-12)


def test_a_margin_makes_it_a_test_of_non_inferiority() -> None:
    lower, higher = [0.974, 0.976, 0.975], [0.973, 0.977, 0.973]
    assert statistics.probability_of_no_gain(lower, higher) > 0.05
    assert statistics.probability_of_no_gain(lower, higher, min_gain=-0.01) < 0.05
    assert statistics.probability_of_no_gain(higher, np.subtract(higher, 0.02).tolist(), min_gain=-0.01) > 0.95


@pytest.mark.parametrize(("gain", "expected"), [(0.25, 0.0), (0.0, 1.0), (-0.25, 1.0)])
def test_a_gain_without_any_variance_is_certain(gain: float, expected: float) -> None:
    assert statistics.probability_of_no_gain([0.5, 0.5], [0.5 + gain] * 3) == expected


@pytest.mark.parametrize(("lower", "higher"), [([0.5], [0.6, 0.7]), ([0.5, 0.6], [0.7])])
def test_a_single_run_a_side_is_refused(lower: list[float], higher: list[float]) -> None:
    with pytest.raises(ValueError, match="needs at least two runs a side"):
        statistics.probability_of_no_gain(lower, higher)


def test_another_run_lies_within_the_interval_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(4000):
        *runs, another = rng.normal(0.8, 0.02, 4).tolist()
        low, high = statistics.next_run(runs, 1000)
        covered.append(low <= another <= high)
    assert 0.94 < np.mean(covered) < 0.96, "4,000 draws: the standard error of the coverage is 0.0035"


def test_the_next_of_a_single_run_is_as_uncertain_as_two_runs_pictures() -> None:
    low, high = statistics.next_run([0.73], 1000)
    assert (high - low) / 2 == pytest.approx(1.96 * (2 * 0.73 * 0.27 / 1000) ** 0.5, rel=0.01)


def test_the_next_of_a_single_run_on_one_picture_may_be_anything() -> None:
    low, high = statistics.next_run([1.0], 1)
    assert low < 0.2
    assert high == 1


def test_runs_that_agree_leave_the_next_a_picture_at_least() -> None:
    low, high = statistics.next_run([0.9, 0.9, 0.9], 1000)
    assert 0.89 < low < 0.899
    assert 0.901 < high < 0.91
