"""Ratios of times: their intervals hold the truth as often as they say, whatever disturbs some rounds."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from convspec.timings.verdicts import MIN_PAIRS, Ratio, judge, ratio_of_pairs, ratio_of_sessions

Noise = Callable[[np.random.Generator, int], np.ndarray]
NOISES: dict[str, Noise] = {
    "even": lambda rng, rounds: rng.normal(0, 0.1, rounds),
    "some rounds four times as slow": lambda rng, rounds: (
        rng.normal(0, 0.05, rounds) + np.log(4) * (rng.random(rounds) < 0.15)
    ),
    "a machine that others begin to use": lambda rng, rounds: rng.exponential(0.3, rounds),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rounds", [MIN_PAIRS, 7, 10, 15])
def test_the_interval_holds_the_true_ratio_95_times_in_100(rounds: int, noise: str) -> None:
    rng, covered, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        drift = rng.normal(0, 0.5, rounds)  # of the machine, which meets both sides of a round
        ours, rival = (np.exp(drift + NOISES[noise](rng, rounds)) for _ in range(2))
        ratio = ratio_of_pairs(0.3 * ours, rival)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 0.3 <= ratio.high
    assert covered > stats.binom.ppf(0.001, trials, 0.95)


@pytest.mark.parametrize(("disturbed", "share"), [(0.15, 0.93), (0.3, 0.86)])
def test_noise_on_one_side_alone_makes_the_interval_hold_less_often(disturbed: float, share: float) -> None:
    """As docs/timings.md says of seven rounds."""
    rng, covered, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        ours, rival = np.exp(rng.normal(0, 0.05, (2, 7)))
        ratio = ratio_of_pairs(np.where(rng.random(7) < disturbed, 4, 1) * ours, rival)
        covered += ratio.low <= 1 <= ratio.high
    assert covered / trials == pytest.approx(share, abs=0.02)


def test_the_interval_is_that_of_the_signed_rank_test(rng: np.random.Generator) -> None:
    ours, rival = np.exp(rng.normal(0, 0.3, (2, 12)))
    ratio = ratio_of_pairs(ours, rival)
    for edge, outward in ((ratio.low, 0.999), (ratio.high, 1.001)):
        p = [
            stats.wilcoxon(np.log(ours / rival / at), method="exact").pvalue for at in (edge * outward, edge / outward)
        ]
        assert p[0] < 0.05 < p[1], "rejected just outside, not just inside"


def test_one_disturbed_round_of_fifteen_hardly_moves_the_ratio() -> None:
    rival = np.linspace(1, 1.1, 15)
    calm, disturbed = (ratio_of_pairs(0.5 * rival[::-1] * ([1] * 14 + [times]), rival) for times in (1, 20))
    assert disturbed.value == pytest.approx(calm.value, rel=0.03)
    assert disturbed.high < 0.55, "a mean of the logarithms would be 0.61"


@pytest.mark.slow
def test_a_thousand_pairs_and_more_have_the_interval_of_the_normal(rng: np.random.Generator) -> None:
    rounds = 1030  # whose signs have more ways than a float64 holds
    ratio = ratio_of_pairs(np.exp(rng.normal(0, 0.1, rounds)), np.ones(rounds))
    half = 1.96 * 0.1 * np.sqrt(np.pi / 3 / rounds)
    assert np.log(ratio.high / ratio.low) / 2 == pytest.approx(half, rel=0.1)
    assert ratio.low < ratio.value < ratio.high


def test_fewer_than_six_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="6 pairs or more, got 5"):
        ratio_of_pairs([1] * 5, [1] * 5)


def test_unpaired_sessions_of_few_rounds_have_no_ratio() -> None:
    assert ratio_of_sessions([1] * 4, [1] * 9) is None
    assert ratio_of_sessions([1] * 5, [2] * 9) == Ratio(2, 2, 2)


@pytest.mark.parametrize(
    ("interval", "bound", "outcome"),
    [
        ((0.4, 0.5), 0.5, "faster"),
        ((0.4, 0.5), 1.2, "faster"),
        ((0.4, 0.51), 0.5, "cannot tell"),
        ((0.51, 0.6), 0.5, "slower"),
        ((0.9, 1.1), 1.2, "no slower"),
        ((1.0, 1.05), 1.05, "no slower"),
        ((1.2, 1.3), 1.2, "cannot tell"),
        ((1.21, 1.3), 1.2, "slower"),
    ],
)
def test_only_an_interval_wholly_beyond_the_bound_is_slower(
    interval: tuple[float, float], bound: float, outcome: str
) -> None:
    assert judge(Ratio(sum(interval) / 2, *interval), bound) == outcome
