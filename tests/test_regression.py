"""Intervals and paired comparisons, against SciPy and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convspec import regression

ACCURACIES = st.lists(st.floats(0.5, 0.99), min_size=2, max_size=8)


@given(ACCURACIES)
def test_the_interval_over_seeds_is_students_t(accuracies: list[float]) -> None:
    low, high = regression.interval(accuracies, 100)
    if np.ptp(accuracies) >= 1e-9:
        oracle = stats.ttest_1samp(accuracies, 0).confidence_interval(0.95)
        np.testing.assert_allclose([low, high], [oracle.low, oracle.high], rtol=1e-9)


def test_the_interval_of_one_seed_is_wilsons_over_the_pictures() -> None:
    # 81 of 263, from Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    np.testing.assert_allclose(regression.interval([81 / 263], 263), (0.2553, 0.3662), atol=5e-5)


def test_seeds_that_all_agree_have_the_interval_of_one() -> None:
    """Three runs of a fit without chance know no more of other pictures than one."""
    assert regression.interval([81 / 263] * 3, 263) == regression.interval([81 / 263], 263)


def test_the_interval_over_seeds_covers_the_true_mean_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.8 <= high
        for low, high in (regression.interval(rng.normal(0.8, 0.02, 5).tolist(), 100) for _ in range(2000))
    ]
    assert 0.935 < np.mean(covered) < 0.965, "2,000 draws: the standard error of the coverage is 0.005"


@given(ACCURACIES, st.integers(0, 2**32 - 1))
def test_the_paired_test_is_scipys(lower: list[float], seed: int) -> None:
    higher = np.array(lower) + np.random.default_rng(seed).normal(0.01, 0.02, len(lower))
    p = regression.probability_of_no_gain(lower, higher.tolist())
    assert p == pytest.approx(stats.ttest_rel(higher, lower, alternative="greater").pvalue, rel=1e-6)


def test_pairing_by_seed_sees_a_steady_gain_that_is_smaller_than_the_spread() -> None:
    lower = [0.70, 0.80, 0.75, 0.85, 0.65]
    higher = [value + gain for value, gain in zip(lower, (0.02, 0.03, 0.02, 0.025, 0.03), strict=True)]
    assert regression.probability_of_no_gain(lower, higher) < 0.001
    assert stats.ttest_ind(higher, lower, alternative="greater").pvalue > 0.2


def test_a_margin_makes_it_a_test_of_non_inferiority() -> None:
    lower, higher = [0.97, 0.98, 0.975], [0.969, 0.981, 0.973]
    assert regression.probability_of_no_gain(lower, higher) > 0.05
    assert regression.probability_of_no_gain(lower, higher, least_gain=-0.01) < 0.05
    assert regression.probability_of_no_gain(higher, np.subtract(higher, 0.02).tolist(), least_gain=-0.01) > 0.95


@pytest.mark.parametrize(("gain", "expected"), [(0.25, 0.0), (0.0, 1.0), (-0.25, 1.0)])
def test_a_gain_without_any_variance_is_certain(gain: float, expected: float) -> None:
    assert regression.probability_of_no_gain([0.5, 0.25], [0.5 + gain, 0.25 + gain]) == expected


@pytest.mark.parametrize(("lower", "higher"), [([0.5], [0.6]), ([0.5, 0.6], [0.7])])
def test_too_few_or_unpaired_runs_are_refused(lower: list[float], higher: list[float]) -> None:
    with pytest.raises(ValueError, match="needs at least two pairs of runs"):
        regression.probability_of_no_gain(lower, higher)
