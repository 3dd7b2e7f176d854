"""Statistics of latency samples: pure functions, no clock, no I/O.

The median hides the tail and the mean hides both, so percentiles come with the number of samples they need. The
early-stopping order statistic is MLPerf LoadGen's: the value given is one that the true percentile exceeds with a
probability of at most 1 %. A figure that the samples cannot carry is None with the reason, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

EARLY_STOP_RISK = 0.01  # LoadGen's: its estimates are comparable with ours
CI_RISK = 0.05  # of the usual 95 % interval
OUTLIER_MADS = 14.826  # ten standard deviations of a normal distribution, as hyperfine flags them
NORMAL_MAD = 1.4826  # MAD × this is the standard deviation, for normal samples


def binomial_cdf_terms(n: int, p: float) -> tuple[int, list[float]]:
    """P(Bin(n, p) = k) for k from the first that matters to n, as (first k, probabilities).

    What lies ten standard deviations below the mean adds less than 1e-20 and is left out, so that n may be large.
    """
    mean, sd = n * p, math.sqrt(n * p * (1 - p))
    # ten more on either side: with a small n·p the distribution is skew, and its deviation says too little
    first = max(0, math.floor(mean - 10 * sd - 10))
    last = min(n, math.ceil(mean + 10 * sd + 10))
    # in logarithms: n! overflows a double from 171 on
    log_n = math.lgamma(n + 1)
    return first, [
        math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p))
        for k in range(first, last + 1)
    ]


def largest_below(n: int, p: float, risk: float) -> int:
    """The largest t with P(Bin(n, p) ≤ t) ≤ ``risk``; -1 when even t = 0 is likelier than that."""
    first, terms = binomial_cdf_terms(n, p)
    total, t = 0.0, first - 1
    for term in terms:
        total += term
        if total > risk:
            return t
        t += 1
    return t


def early_stop_needs(p: float, risk: float = EARLY_STOP_RISK) -> int:
    """The fewest samples that carry an early-stopping estimate of percentile ``p`` (a fraction): 662 for 0.99."""
    # t must be 1 at least: P(Bin(n, 1-p) ≤ 1) = pⁿ + n (1-p) pⁿ⁻¹ within the risk, where more than one is expected
    n = 2
    while (1 - p) * n <= 1 or p**n + n * (1 - p) * p ** (n - 1) > risk:
        n += 1
    return n


def raw_percentile(ordered: Sequence[float], p: float) -> float:
    """Percentile of the samples themselves, linear between neighbours: what "p50" means everywhere, in a profile, of a
    node's answers in ``fleet status`` and of a client's. ``ordered`` is ascending and not empty."""
    place = p * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def early_stop(ordered: Sequence[float], p: float, risk: float = EARLY_STOP_RISK) -> float | None:
    """The order statistic that is at or above the true percentile with probability 1 - ``risk``, or None.

    With t the largest number for which P(Bin(n, 1-p) ≤ t) ≤ risk, it is ``ordered[n - t]``; t is at least 1, as in
    LoadGen.
    """
    t = largest_below(len(ordered), 1 - p, risk)
    return ordered[len(ordered) - t] if t >= 1 else None


def order_interval(ordered: Sequence[float], p: float, risk: float = CI_RISK) -> tuple[float, float] | None:
    """A two-sided interval of two order statistics that covers the true percentile with probability 1 - ``risk``.

    Distribution-free. The risk is halved; what the upper side needs beyond its half, as few samples force, is taken
    from the lower. None when the samples are too few (p50: 6, p90: 29, p99: 299).
    """
    n = len(ordered)
    if n < 2:
        return None
    above = largest_below(n, 1 - p, risk / 2)  # P(Bin(n, p) ≥ n - t) = P(Bin(n, 1-p) ≤ t)
    upper_risk = risk / 2
    if above < 0:
        above, upper_risk = 0, p**n
    below = largest_below(n, p, risk - upper_risk) if upper_risk < risk else -1
    return (ordered[below], ordered[n - 1 - above]) if below >= 0 else None


@dataclass(frozen=True, slots=True)
class Percentile:
    """One percentile of a set of samples, in their unit.

    p         as a fraction
    estimate  early-stopping estimate, or None when the samples are fewer than ``needs``
    raw       percentile of the samples themselves, or None without samples
    interval  95 % confidence interval from order statistics, or None
    needs     samples that the estimate needs
    """

    p: float
    estimate: float | None
    raw: float | None
    interval: tuple[float, float] | None
    needs: int
    count: int

    @property
    def name(self) -> str:
        return f"p{self.p * 100:g}"

    @property
    def reason(self) -> str | None:
        """Why there is no estimate, or None when there is one."""
        return (
            None if self.estimate is not None else f"{self.name} needs ≥ {self.needs} samples, there are {self.count}"
        )


def percentile(samples: Sequence[float], p: float) -> Percentile:
    """Percentile ``p`` of ``samples`` in any order, with what is known about it."""
    ordered = sorted(samples)
    n = len(ordered)
    if not n:
        return Percentile(p, None, None, None, early_stop_needs(p), 0)
    return Percentile(
        p, early_stop(ordered, p), raw_percentile(ordered, p), order_interval(ordered, p), early_stop_needs(p), n
    )


def mad(samples: Sequence[float]) -> float:
    """Median absolute deviation from the median."""
    centre = median(samples)
    return float(median(abs(sample - centre) for sample in samples))


def relative_spread(samples: Sequence[float]) -> float:
    """1.4826 · MAD ÷ median: the standard deviation as a share of the median, without the outliers' say."""
    return NORMAL_MAD * mad(samples) / median(samples)


def outliers(samples: Sequence[float]) -> tuple[int, ...]:
    """Indices of the samples further than 14.826 MAD from the median. They stay in the percentiles.

    When over half of the samples are equal the MAD is 0, and 1 % of the median takes the place of the limit.
    """
    centre = median(samples)
    limit = OUTLIER_MADS * mad(samples) or 0.01 * abs(centre)
    return tuple(index for index, sample in enumerate(samples) if abs(sample - centre) > limit)


@dataclass(frozen=True, slots=True)
class Drift:
    """How samples move over time. ``step``: last third's median against the first third's, minus 1. ``trend``: total
    change over the run by Theil–Sen on 12 window medians, as a share of the median; ``significance`` its Kendall p."""

    step: float
    trend: float
    significance: float

    @property
    def drifting(self) -> bool:
        """A step of more than 5 %, or a monotone trend that matters (2 %) and is no chance (p < 0.01)."""
        # A trend is found sooner by its order than a step by its size, but below 2 % of the median it changes no
        # conclusion, however certain it is.
        return abs(self.step) > 0.05 or (abs(self.trend) > 0.02 and self.significance < 0.01)


TREND_WINDOWS = 12  # of three samples at least: enough for Kendall's normal approximation, few enough to be independent


def drift(samples: Sequence[float]) -> Drift | None:
    """Drift of samples in the order they ran; None below 36 samples.

    The trend is tested on window medians: neighbouring samples are correlated, and a test on thousands of raw ones
    would call any flicker significant.
    """
    n = len(samples)
    if n < 3 * TREND_WINDOWS:
        return None
    third = n // 3
    step = median(samples[-third:]) / median(samples[:third]) - 1
    edges = [n * k // TREND_WINDOWS for k in range(TREND_WINDOWS + 1)]
    windows = [median(samples[low:high]) for low, high in pairwise(edges)]
    pairs = [(i, j) for i in range(TREND_WINDOWS) for j in range(i + 1, TREND_WINDOWS)]
    slope = median((windows[j] - windows[i]) / (j - i) for i, j in pairs)
    concordance = sum(int(windows[j] > windows[i]) - int(windows[j] < windows[i]) for i, j in pairs)
    return Drift(step, slope * (TREND_WINDOWS - 1) / median(samples), kendall_p(concordance, TREND_WINDOWS))


def kendall_p(concordance: int, n: int) -> float:
    """Two-sided p of Kendall's S by its normal approximation, continuity-corrected."""
    if concordance == 0:
        return 1.0
    sd = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return math.erfc((abs(concordance) - 1) / sd / math.sqrt(2))


@dataclass(frozen=True, slots=True)
class Modes:
    """Two modes: their medians and the share of the samples in the upper one."""

    low: float
    high: float
    upper_share: float


def two_modes(samples: Sequence[float]) -> Modes | None:
    """The two modes of a bimodal distribution, or None.

    The best two-way split (least variance within, up to 2 % outliers aside) counts as two modes when both sides hold
    10 % of the samples, their medians are 10 % of the median apart, and the middle third between them is less than
    half as dense as either. Below 30 samples nothing is claimed.
    """
    if len(samples) < 30:  # a tenth of fewer is under three samples, which may be chance
        return None
    ordered = _without_strays(samples)
    cut = _best_split(ordered)
    low, high = float(np.median(ordered[:cut])), float(np.median(ordered[cut:]))
    share = 1 - cut / len(ordered)
    # any samples have a best split: it is two modes only where both sides weigh something and are apart …
    if min(share, 1 - share) < 0.1 or high - low < 0.1 * float(np.median(ordered)):
        return None
    width = (high - low) / 3  # … and there is a valley between: one broad mode is densest in its middle
    around = [int(np.sum(np.abs(ordered - centre) <= width / 2)) for centre in (low, (low + high) / 2, high)]
    return Modes(low, high, share) if around[1] < 0.5 * min(around[0], around[2]) else None


def _without_strays(samples: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Ascending, up to 2 % of outliers left out: a single one far away would be the best split of all."""
    strays = set(outliers(samples))
    if len(strays) > 0.02 * len(samples):  # too many to be strays: they may be the other mode
        strays = set()
    return np.sort([sample for index, sample in enumerate(samples) if index not in strays])


def _best_split(ordered: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int:
    """How many of the ascending values go left so that the variance within both sides is least (Otsu)."""
    n = len(ordered)
    left = np.arange(1, n)
    sums = np.cumsum(ordered)[:-1]
    # least within is most between, as their sum is fixed; and that needs sums only
    between = sums**2 / left + (ordered.sum() - sums) ** 2 / (n - left)
    return int(np.argmax(between)) + 1


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median ratio with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def median_ratio(values: Sequence[float], *, risk: float = CI_RISK) -> Ratio:
    """The median of ``values`` (one ratio per block) and its interval of order statistics, which misses the true median
    with a probability of at most ``risk``. ValueError when they are too few for that."""
    ordered = sorted(values)
    interval = order_interval(ordered, 0.5, risk)
    if interval is None:
        raise ValueError(f"{len(ordered)} ratios carry no interval of risk {risk:g}")
    return Ratio(float(median(ordered)), *map(float, interval))
