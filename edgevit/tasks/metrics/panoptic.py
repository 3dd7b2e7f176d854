"""Of maps of classes beside segments: panoptic quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.data.targets import Objects
from edgevit.errors import UsageError
from edgevit.tasks.base import Asked, Row
from edgevit.tasks.metrics.base import DROP, nothing
from edgevit.tasks.segment import Segment

_HALF = 0.5  # of the union: no segment can share more than that with two others


class PanopticQuality:
    """PQ: the summed overlap of the segments that are found, over those found and half of those missed or made up, by
    class; the mean over the classes that are there or were answered. A map of classes has one segment of each class.

    Segments of a crowd are neither found nor missed; what lies mostly where the truth says nothing is not made up.
    """

    name = "PQ"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self) -> None:
        self._overlap: Counter[int] = Counter()
        self._found: Counter[int] = Counter()
        self._missed: Counter[int] = Counter()
        self._made_up: Counter[int] = Counter()

    def take(self, row: Row, target: Objects, asked: Asked) -> None:
        said = Segment().decode(row, asked).classes
        if target.masks is None:
            raise UsageError("the data has boxes and no segments", hint="use annotations with segmentation")
        if target.masks.shape[1:] != said.shape:
            raise UsageError("a segment is not of its image's size", hint="check width and height in the annotations")
        known = np.any(target.masks, axis=0)
        answered = set(map(int, np.unique(said[said >= 0])))
        for index in answered | set(map(int, target.classes)):
            here = target.classes == index
            crowd = np.any(target.masks[here & target.crowd], axis=0)
            self._take(index, said == index, target.masks[here & ~target.crowd], ~known | crowd, ~known)

    def _take(self, index: int, said: Array, segments: Array, free: Array, unknown: Array) -> None:
        """``free`` are pixels where this class is not made up, ``unknown`` those that are no part of a union."""
        both = (segments & said).sum(axis=(1, 2))
        union = segments.sum(axis=(1, 2)) + (said & ~unknown).sum() - both
        share = both / np.maximum(union, 1)
        hits = share > _HALF
        self._overlap[index] += share[hits].sum()
        self._found[index] += int(hits.sum())
        self._missed[index] += int((~hits).sum())
        area = int(said.sum())
        if area and not hits.any() and (said & free).sum() <= _HALF * area:
            self._made_up[index] += 1

    def value(self) -> float:
        if not (self._found + self._missed):
            raise nothing("a segment")
        return float(np.mean([self._quality(index) for index in sorted(self._counted())]))

    def others(self) -> Mapping[str, float]:
        return {}

    def allowed(self) -> float:
        return max(DROP, 1 / (self._found.total() + self._missed.total()))

    def _counted(self) -> set[int]:
        return set(self._found + self._missed + self._made_up)

    def _quality(self, index: int) -> float:
        wrong = self._missed[index] + self._made_up[index]
        return float(self._overlap[index] / (self._found[index] + wrong / 2))
