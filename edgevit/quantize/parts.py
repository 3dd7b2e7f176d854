"""Which output channels of a plan's layers a graph's operators compute: converters rename, split and share them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgevit.quantize.plan import Array


def first_channel(part: Array, whole: Array) -> int | None:
    """The first row of ``whole`` from which on it is ``part``."""
    if part.shape[1:] != whole.shape[1:] or len(part) > len(whole):
        return None
    same = (whole[: len(whole) - len(part) + 1] == part[0]).reshape(len(whole) - len(part) + 1, -1).all(axis=1)
    starts = (int(start) for start in np.flatnonzero(same))
    return next((start for start in starts if np.array_equal(whole[start : start + len(part)], part)), None)


def computed_all(cuts: Iterable[tuple[int, int]], channels: int, uses: int) -> bool:
    """Whether every output channel is computed as often as the program does, by operators from start to stop."""
    covered = np.zeros(channels, np.int64)
    for start, stop in cuts:
        covered[start:stop] += 1
    return bool((covered == uses).all()) and uses > 0
