"""How long to warm up, and how long to go on measuring: rules on the samples taken so far, for any loop.

A virtual machine changes its speed by some per cent every few seconds, so three short windows agree only by luck: the
rules below compare the longest windows that the time so far allows, and tell movement from scatter. No sample is thrown
away to look steady: where the samples move, more are taken, and the verdict is on all of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from edgevit.profiles import statistics, verdict

Enough = Callable[[int, int], bool]  # (elapsed ns, count) of one draw
Draw = Callable[[Enough], "array[int]"]  # samples in ns until it is enough
Clock = Callable[[], int]

EQUAL = 0.01  # windows this close are equal, whatever the scatter
MAX_MOVE = 0.05  # and windows further apart than this are not, whatever the scatter: the drift rule's own limit
_WINDOWS, _PARTS = 3, 3
_MIN_PART = 5  # samples
_TREND_RISK = 0.1
_GROWTH = 1.15
LOOK = 3.0  # times the time so far until the samples are looked at again: each look is a chance to be lucky
EARLY_STEP = 0.015  # of the last third from the first: well below the 5 % that make a verdict
_MAX_JUDGED = 20_000


def settled(samples: Sequence[float]) -> bool:
    """Whether the last half of the warm-up samples has stopped moving.

    It is cut into three windows of three parts. It moves not when the windows' medians lie within 1 %; or when they
    differ by no more than the scatter of the parts explains (two standard errors, at most 5 %) and the nine parts show
    no monotone trend (Kendall, p ≥ 0.1); scatter is no excuse below 45 samples. False below 9 in that half.
    """
    half = np.asarray(samples[len(samples) // 2 :], np.float64)
    if len(half) < _WINDOWS * _PARTS:
        return False
    pieces = np.array_split(half, _WINDOWS * _PARTS)
    parts = np.array([np.median(piece) for piece in pieces])
    windows = np.array([np.median(np.concatenate(pieces[k : k + _PARTS])) for k in range(0, len(pieces), _PARTS)])
    moved = float(windows.max() / windows.min() - 1)
    if moved <= EQUAL or len(half) < _WINDOWS * _PARTS * _MIN_PART:
        return moved <= EQUAL
    concordance = sum(int(np.sign(later - earlier)) for earlier, later in combinations(parts, 2))
    return moved <= min(MAX_MOVE, _noise(parts)) and statistics.kendall_p(concordance, len(parts)) >= _TREND_RISK


def _noise(parts: np.ndarray[Any, Any]) -> float:
    """How far two windows may differ by the scatter of the parts within them alone, as a share of the median."""
    inside = parts.reshape(_WINDOWS, _PARTS)
    scatter = float(inside.var(axis=1, ddof=1).mean()) ** 0.5 / float(np.median(parts))
    return float(2 * scatter * (2 / _PARTS) ** 0.5)  # two standard errors of the difference of two means of parts


def warm_up(draw: Draw, clock: Clock, *, least_s: float, least_runs: int, cap_s: float) -> tuple[array[int], bool]:
    """All warm-up samples in ns, and whether they settled before ``cap_s``.

    ``draw(enough)`` runs inferences until ``enough(elapsed_ns, count)`` of that draw.
    """
    taken: array[int] = array("q")
    begun, target = clock(), least_s
    while True:
        spent_ns = clock() - begun
        taken.extend(draw(_whole(_reached(target, least_runs), spent_ns, len(taken))))
        spent = (clock() - begun) / 1e9
        if settled(taken):
            return taken, True
        if spent >= cap_s:
            return taken, False
        target = min(cap_s, max(target, spent) * _GROWTH)


def _reached(seconds: float, runs: int = 0) -> Enough:
    return lambda ns, n: ns >= seconds * 1e9 and n >= runs


def _whole(enough: Enough, elapsed_ns: int, count: int) -> Enough:
    """``enough`` of a whole run for a draw that begins after ``elapsed_ns`` and ``count`` samples."""
    return lambda ns, n: enough(elapsed_ns + ns, count + n)


def until_steady(draw: Draw, clock: Clock, enough: Enough, *, cap_s: float) -> tuple[array[int], int]:
    """Samples in ns, and how many times they were looked at before they raised no doubt or ``cap_s`` was over.

    The first look is when ``enough(elapsed_ns, count)`` of the whole run says so; while the samples move or scatter,
    measuring goes on to three times the time so far. All samples are kept.
    """
    taken: array[int] = array("q")
    begun, looks, target = clock(), 0, 0.0
    while True:
        stop = _reached(target) if looks else enough
        taken.extend(draw(_whole(stop, clock() - begun, len(taken))))
        looks += 1
        spent = (clock() - begun) / 1e9
        if spent >= cap_s or not doubtful(taken):
            return taken, looks
        target = min(cap_s, LOOK * spent)


def doubtful(samples: Sequence[float]) -> bool:
    """Whether to go on: a doubt, or a step between the first and last third of over 1.5 %.

    Stricter than the verdict, so that a first look does not pass by luck what a longer one would see. Of very many
    samples an odd stride is judged: a look takes less than 0.1 s.
    """
    stride = max(1, len(samples) // _MAX_JUDGED) | 1
    judged = samples[::stride]
    moved = statistics.drift(judged)
    return (moved is not None and abs(moved.step) > EARLY_STEP) or bool(verdict.doubts_about(judged))
