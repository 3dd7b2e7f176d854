"""Of maps of classes beside segments: panoptic quality."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.data.targets import Objects
from edgevit.errors import UsageError
from edgevit.tasks.base import Asked, Row
from edgevit.tasks.metrics.base import DROP, nothing
from edgevit.tasks.segment import ClassMap, Segment
from edgevit.tasks.segments import Segments

_HALF = 0.5  # of the union: no segment can share more than that with two others


@dataclass(frozen=True)
class Unjudged:
    """(H, W): ``free`` are pixels where a class is not made up, ``unknown`` those that are no part of a union."""

    free: Array
    unknown: Array


class PanopticQuality:
    """PQ: the summed overlap of the segments that are found, over those found and half of those missed or made up, by
    class; the mean over the classes that are there or were answered. A map of classes has one segment of each class.

    Segments of a crowd are neither found nor missed; what lies mostly where the truth says nothing is not made up.
    """

    name = "PQ"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self) -> None:
        self._overlap: defaultdict[int, float] = defaultdict(float)
        self._found: Counter[int] = Counter()
        self._missed: Counter[int] = Counter()
        self._made_up: Counter[int] = Counter()

    def take(self, row: Row, target: Objects, asked: Asked) -> None:
        said = _segments(Segment().decode(row, asked))
        if target.masks is None:
            raise UsageError("the data has boxes and no segments", hint="use annotations with segmentation")
        if target.masks.shape[1:] != asked.size:
            raise UsageError("a segment is not of its image's size", hint="check width and height in the annotations")
        known = np.any(target.masks, axis=0)
        for index in {*said, *map(int, target.classes)}:
            here = target.classes == index
            crowd = np.any(target.masks[here & target.crowd], axis=0)
            there = target.masks[here & ~target.crowd]
            self._take(index, said.get(index, ()), there, Unjudged(~known | crowd, ~known))

    def _take(self, index: int, said: Sequence[Array], segments: Array, unjudged: Unjudged) -> None:
        missed = np.ones(len(segments), bool)
        for mask in said:
            both = (segments & mask).sum(axis=(1, 2))
            union = segments.sum(axis=(1, 2)) + (mask & ~unjudged.unknown).sum() - both
            share = np.where(missed, both / np.maximum(union, 1), 0.0)
            if share.size and share.max() > _HALF:
                missed[share.argmax()] = False
                self._overlap[index] += float(share.max())
                self._found[index] += 1
            elif (mask & unjudged.free).sum() <= _HALF * mask.sum():
                self._made_up[index] += 1
        self._missed[index] += int(missed.sum())

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


def _segments(answer: ClassMap | Segments) -> dict[int, list[Array]]:
    """By class the masks of its segments, none of them empty."""
    if isinstance(answer, ClassMap):
        return {index: [answer.classes == index] for index, _ in answer.shares}
    found: dict[int, list[Array]] = {}
    for part in answer.parts:
        found.setdefault(part.index, []).append(part.mask)
    return found
