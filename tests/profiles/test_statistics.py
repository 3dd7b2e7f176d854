"""Percentiles against their definition, and doubts against samples made to raise them."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.profiles import statistics


def exact_cdf(n: int, p: Fraction, t: int) -> Fraction:
    """P(Bin(n, p) ≤ t) without rounding."""
    return sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(t + 1)), Fraction(0))


@pytest.mark.parametrize(("p", "needs"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.97, 219), (0.99, 662), (0.999, 6636)])
def test_the_fewest_samples_are_those_of_loadgen(p: float, needs: int) -> None:
    assert statistics.early_stop_needs(p) == needs
    assert statistics.early_stop(range(needs - 1), p) is None
    assert statistics.early_stop(range(needs), p) == needs - 1  # t = 1: the largest sample


@pytest.mark.parametrize(("p", "needs"), [(0.5, 6), (0.9, 29), (0.95, 59), (0.99, 299), (0.999, 2995)])
def test_an_order_statistic_interval_exists_from_the_known_count_on(p: float, needs: int) -> None:
    assert statistics.order_interval(range(needs - 1), p) is None
    assert statistics.order_interval(range(needs), p) is not None


@settings(deadline=None)  # exact arithmetic takes its time
@given(n=st.integers(2, 300), percent=st.sampled_from([1, 5, 10, 50, 90, 99]), risk=st.sampled_from([0.01, 0.025]))
def test_the_binomial_tail_equals_exact_arithmetic(n: int, percent: int, risk: float) -> None:
    t = statistics.largest_below(n, percent / 100, risk)
    p, bound = Fraction(percent, 100), Fraction(risk)
    assert t == -1 or exact_cdf(n, p, t) <= bound
    assert t == n or exact_cdf(n, p, t + 1) > bound


def test_a_million_samples_are_no_trouble() -> None:
    t = statistics.largest_below(10**6, 0.01, 0.01)
    assert t == pytest.approx(10_000 - 2.326 * math.sqrt(9_900), abs=5)


@settings(deadline=None)  # exact arithmetic takes its time
@given(n=st.integers(29, 700), percent=st.sampled_from([50, 90]))
def test_the_interval_covers_with_at_least_95_percent(n: int, percent: int) -> None:
    """P(low order statistic ≤ true percentile ≤ high) by the binomial, for ranks 0-based."""
    interval = statistics.order_interval(range(n), percent / 100)
    assert interval is not None
    low, high = (int(rank) for rank in interval)
    p = Fraction(percent, 100)
    missed = exact_cdf(n, p, low) + 1 - exact_cdf(n, p, high)
    assert missed <= Fraction(5, 100)
    assert low < high


def test_the_early_stopping_value_bounds_the_true_percentile_99_times_in_100() -> None:
    rng = random.Random(7)
    misses = sum(statistics.early_stop(sorted(rng.random() for _ in range(300)), 0.9) < 0.9 for _ in range(2000))  # type: ignore[operator]
    assert misses <= 2000 * 0.01 + 3 * math.sqrt(20)


def test_too_few_samples_give_a_reason_and_no_number() -> None:
    figure = statistics.percentile([1.0] * 250, 0.99)
    assert figure.estimate is None
    assert figure.reason == "p99 needs ≥ 662 samples, there are 250"
    assert statistics.percentile([], 0.5).raw is None


def test_the_estimate_is_at_or_above_the_raw_percentile_and_order_does_not_matter() -> None:
    samples = [float(n) for n in range(1, 101)]
    shuffled = random.Random(0).sample(samples, 100)
    figure = statistics.percentile(shuffled, 0.9)
    assert figure == statistics.percentile(samples, 0.9)
    assert figure.raw == pytest.approx(90.1)
    assert figure.estimate == 98.0  # t = 3: P(Bin(100, 0.1) ≤ 3) = 0.8 %, ≤ 4 would be 2.4 %


def test_outliers_lie_beyond_14_826_mads() -> None:
    samples = [10.0, 10.1, 9.9, 10.1, 9.9, 10.0] * 10
    assert statistics.mad(samples) == pytest.approx(0.1)
    assert statistics.outliers([*samples, 11.4]) == ()
    assert statistics.outliers([*samples, 11.6]) == (60,)


def test_equal_samples_have_no_outliers_and_one_stray_among_them_is_one() -> None:
    assert statistics.outliers([2.0] * 50) == ()
    assert statistics.outliers([2.0] * 50 + [2.001, 3.0]) == (51,)


def noisy(count: int, scale: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [10 * (1 + scale * rng.gauss(0, 1)) for _ in range(count)]


def test_quiet_samples_do_not_drift() -> None:
    drifting = [statistics.drift(noisy(300, 0.03, seed)).drifting for seed in range(50)]  # type: ignore[union-attr]
    assert sum(drifting) <= 1


def test_a_step_of_six_percent_drifts() -> None:
    samples = [10.0] * 200 + [10.6] * 100
    moved = statistics.drift(samples)
    assert moved is not None
    assert moved.drifting
    assert moved.step == pytest.approx(0.06)


def test_a_slow_trend_below_five_percent_drifts_too_and_its_direction_is_kept() -> None:
    samples = [value * (1 - 0.04 * place / 300) for place, value in enumerate(noisy(300, 0.005, 1))]
    moved = statistics.drift(samples)
    assert moved is not None
    assert abs(moved.step) < 0.05
    assert moved.drifting
    assert moved.trend == pytest.approx(-0.04, abs=0.01)


def test_a_trend_too_small_to_matter_is_left_alone() -> None:
    moved = statistics.drift([10 * (1 + 0.01 * place / 300) for place in range(300)])
    assert moved is not None
    assert moved.significance < 0.01
    assert not moved.drifting


def test_few_samples_claim_no_drift() -> None:
    assert statistics.drift([1.0] * 35) is None


def test_two_modes_are_found_with_their_medians() -> None:
    rng = random.Random(3)
    samples = [rng.gauss(10, 0.2) if rng.random() < 0.7 else rng.gauss(14, 0.3) for _ in range(300)]
    modes = statistics.two_modes(samples)
    assert modes is not None
    assert modes.low == pytest.approx(10, rel=0.01)
    assert modes.high == pytest.approx(14, rel=0.01)
    assert modes.upper_share == pytest.approx(0.3, abs=0.08)


def test_one_mode_is_not_two() -> None:
    rng = random.Random(4)
    skewed = [10 * math.exp(0.05 * abs(rng.gauss(0, 1))) for _ in range(500)]
    uniform = [10 + 4 * rng.random() for _ in range(500)]
    for samples in (noisy(500, 0.05, 5), noisy(64, 0.08, 6), skewed, uniform, [10.0] * 100):
        assert statistics.two_modes(samples) is None


def test_the_ratio_of_equal_blocks_has_no_width() -> None:
    assert statistics.median_ratio([1.25] * 9) == statistics.Ratio(1.25, 1.25, 1.25)


def test_the_interval_of_a_median_ratio_is_of_order_statistics_and_widens_as_the_risk_shrinks() -> None:
    values = [1.0 + 0.01 * n for n in range(15)]
    assert statistics.median_ratio(values) == statistics.Ratio(values[7], values[3], values[11])
    assert statistics.median_ratio(values, risk=0.05 / 66) == statistics.Ratio(values[7], values[0], values[14])
    with pytest.raises(ValueError, match="9 ratios carry no interval"):
        statistics.median_ratio(values[:9], risk=0.05 / 66)
