"""Fewer points for plots of many samples, without changing what they show. Every point that is kept is a true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.profiles.statistics import outliers

Floats = np.ndarray[Any, np.dtype[np.float64]]

WHOLE = 2000  # samples up to which everything is drawn
STEPS = 1000  # steps of a thinned distribution: 0.1 % each
TAIL = 200  # slowest samples that are all kept
BINS = 500
MARKED = 300  # outliers drawn one by one


def ecdf(samples: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points (ms, share of samples at or below) of the empirical distribution, the share in percent.

    Above ``WHOLE`` samples every 0.1 % one order statistic is kept, and the ``TAIL`` slowest all: no kept point lies
    off the true curve, and between two the curve moves by 0.1 % at most.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    n = len(ordered)
    places = np.arange(n)
    if n > WHOLE:
        places = np.unique(np.concatenate([np.linspace(0, n - 1, STEPS + 1).round().astype(int), places[-TAIL:]]))
    return ordered[places].tolist(), ((places + 1) / n * 100).tolist()


@dataclass(frozen=True)
class Track:
    """Samples over time, ready to draw. Times in s, values in ms.

    whole     whether each ordinary sample is a point; else ``mid`` is the median of a bin of neighbours and ``low``
              and ``high`` are its extremes, outliers left out
    strays    (time, value) of the outliers, the slowest ``MARKED`` of ``outliers`` ones
    """

    whole: bool
    times: list[float]
    mid: list[float]
    low: list[float]
    high: list[float]
    strays: list[tuple[float, float]]
    outliers: int


def track(times: Sequence[float], samples: Sequence[float]) -> Track:
    """``samples`` at ``times``, ascending; outliers apart, bins of neighbours where there are many."""
    stray = list(outliers(samples)) if samples else []
    at, values = np.asarray(times, np.float64), np.asarray(samples, np.float64)
    ordinary = np.ones(len(values), bool)
    ordinary[stray] = False
    marked = sorted(sorted(stray, key=lambda index: -samples[index])[:MARKED])
    points = [(float(at[index]), float(values[index])) for index in marked]
    at, values = at[ordinary], values[ordinary]
    if len(values) <= WHOLE:
        every = values.tolist()
        return Track(True, at.tolist(), every, every, every, points, len(stray))
    middles, medians, lows, highs = _binned(at, values)
    return Track(False, middles, medians, lows, highs, points, len(stray))


def _binned(at: Floats, values: Floats) -> tuple[list[float], list[float], list[float], list[float]]:
    """Mean time, and median, least and largest value of each of ``BINS`` groups of neighbours."""
    parts = list(zip(np.array_split(at, BINS), np.array_split(values, BINS), strict=True))
    return (
        [float(part.mean()) for part, _ in parts],
        [float(np.median(part)) for _, part in parts],
        [float(part.min()) for _, part in parts],
        [float(part.max()) for _, part in parts],
    )
