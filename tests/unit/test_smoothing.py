"""Listing 5.24's exponential moving average: what it is, and what must hold of it.

Points that are whole numbers and factors that are eighths make every sum exact, so that most of these compare with ==.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from convspec.training import smooth_curve

# 12 points of 10 bits, multiplied 11 times by 3 bits at most: 43 of a double's 53 bits.
CURVES = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=12)
FACTORS = st.integers(0, 8).map(lambda eighths: eighths / 8)


def _smoothed(points: Sequence[float], factor: float) -> list[float]:
    """Smoothed, and not for want of values: what is empty or nought would have many a property."""
    smoothed = smooth_curve(points, factor)
    assert (len(smoothed), smoothed[0]) == (len(points), points[0]), "one value a point, the first the first point"
    return smoothed


@given(points=CURVES, factor=FACTORS)
def test_each_value_weighs_older_points_less_by_the_factor(points: list[float], factor: float) -> None:
    for n, value in enumerate(_smoothed(points, factor)):
        weights = [factor**n] + [(1 - factor) * factor ** (n - k) for k in range(1, n + 1)]
        assert value == sum(weight * point for weight, point in zip(weights, points, strict=False)), f"value {n}"


@given(points=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200), factor=st.floats(0, 1))
def test_it_is_the_first_order_recursive_filter_started_at_the_first_point(points: list[float], factor: float) -> None:
    filtered, _ = lfilter([1 - factor], [1, -factor], points[1:], zi=[factor * points[0]])
    # A step of either side rounds two products and a sum, each by 2^-53 of no more than the largest point.
    tolerance = 2 * 3 * len(points) * 2.0**-53 * max(map(abs, points))
    np.testing.assert_allclose(_smoothed(points, factor), [points[0], *filtered], rtol=0, atol=tolerance + 1e-300)


@given(points=CURVES)
def test_the_factor_is_eight_tenths_unless_given(points: list[float]) -> None:
    assert smooth_curve(points) == smooth_curve(points, 0.8), "the factor is 0.8 unless given"


def test_the_factor_is_what_is_kept_of_the_past_not_what_is_taken_of_the_new() -> None:
    assert smooth_curve([0.0, 8.0, 8.0], 0.75) == [0.0, 2.0, 3.5]


@given(points=CURVES, factor=FACTORS)
def test_there_is_one_value_for_each_point_and_the_first_is_the_first_point(points: list[float], factor: float) -> None:
    smoothed = smooth_curve(points, factor)
    assert len(smoothed) == len(points)
    assert smoothed[0] == points[0]


@given(points=CURVES, factor=FACTORS)
def test_each_value_lies_within_the_points_so_far(points: list[float], factor: float) -> None:
    for n, value in enumerate(_smoothed(points, factor), start=1):
        assert min(points[:n]) <= value <= max(points[:n]), f"after {n} points"


@given(points=CURVES, factor=FACTORS)
def test_a_smoothed_curve_never_goes_up_and_down_more_than_the_curve(points: list[float], factor: float) -> None:
    def variation(curve: list[float]) -> float:
        return sum(abs(after - before) for before, after in pairwise(curve))

    assert variation(_smoothed(points, factor)) <= variation(points)


@given(value=st.integers(-1000, 1000).map(float), length=st.integers(1, 12), factor=FACTORS)
def test_a_constant_curve_stays_as_it_is(value: float, length: int, factor: float) -> None:
    assert _smoothed([value] * length, factor) == [value] * length


@given(points=CURVES)
def test_a_factor_of_0_changes_nothing(points: list[float]) -> None:
    assert _smoothed(points, 0) == points


@given(points=CURVES)
def test_a_factor_of_1_holds_the_first_point_for_ever(points: list[float]) -> None:
    assert _smoothed(points, 1) == [points[0]] * len(points)


@pytest.mark.parametrize("factor", [0.0, 0.8, 1.0])
def test_an_empty_curve_stays_empty(factor: float) -> None:
    assert smooth_curve([], factor) == []


@given(
    pairs=st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), min_size=1, max_size=12),
    a=st.integers(-5, 5),
    b=st.integers(-5, 5),
    factor=FACTORS,
)
def test_smoothing_is_linear(pairs: list[tuple[int, int]], a: int, b: int, factor: float) -> None:
    xs, ys = zip(*pairs, strict=True)
    together = _smoothed([a * x + b * y for x, y in pairs], factor)
    apart = zip(_smoothed(xs, factor), _smoothed(ys, factor), strict=True)
    assert together == [a * x + b * y for x, y in apart]


@given(points=CURVES, later=CURVES, factor=FACTORS)
def test_smoothing_is_causal_what_comes_later_changes_nothing_before(
    points: list[float], later: list[float], factor: float
) -> None:
    assert _smoothed(points + later, factor)[: len(points)] == _smoothed(points, factor)


@given(points=CURVES, factor=FACTORS)
def test_the_points_are_left_as_they_were(points: list[float], factor: float) -> None:
    before = list(points)
    _smoothed(points, factor)
    assert points == before


@pytest.mark.parametrize("factor", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("points", [[], [1.0, 2.0]], ids=["empty", "two points"])
def test_a_factor_outside_0_to_1_is_an_error_that_names_it(points: list[float], factor: float) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'factor must be from 0 to 1, got {factor}')}$"):
        smooth_curve(points, factor)
