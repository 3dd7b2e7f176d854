"""Of maps of classes: how much of every class, and of all pixels, is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.data.targets import IGNORE
from edgevit.errors import UsageError
from edgevit.tasks.base import Asked, Row
from edgevit.tasks.metrics.base import DROP, nothing
from edgevit.tasks.segment import Segment


class MeanIoU:
    """Intersection over union of every class over all pixels of all images, averaged over the classes that the truth
    or an answer holds. Pixels that are to be ignored count for nothing; those that the model did not see, as wrong.
    """

    name = "mIoU"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self) -> None:
        # Three counts a class and no square of them: 65,536 classes may stand in one picture.
        self._both, self._true, self._said = (np.zeros(0, np.int64) for _ in range(3))

    def take(self, row: Row, target: Array, asked: Asked) -> None:
        said = Segment().classes(row, asked)
        if said.shape != target.shape:
            raise UsageError(
                f"a mask has {_size(target)} pixels, its image {_size(said)}", hint="save masks in their images' size"
            )
        counted = target != IGNORE
        true, said = target[counted], said[counted]
        self._both = _added(self._both, true[true == said])
        self._true = _added(self._true, true)
        self._said = _added(self._said, said[said >= 0])

    def value(self) -> float:
        if not self._true.any():
            raise nothing("a pixel with a class")
        count = max(len(self._both), len(self._true), len(self._said))
        both, true, said = (_longer(counts, count) for counts in (self._both, self._true, self._said))
        union = true + said - both
        return float((both[union > 0] / union[union > 0]).mean())

    def others(self) -> Mapping[str, float]:
        return {"pixel accuracy": float(self._both.sum() / self._true.sum())}

    def allowed(self) -> float:
        return DROP


def _added(counts: Array, values: Array) -> Array:
    """``counts`` by value, and how often each of ``values`` is there."""
    more = np.bincount(values)
    length = max(len(counts), len(more))
    total: Array = _longer(counts, length) + _longer(more, length)
    return total


def _longer(counts: Array, length: int) -> Array:
    found: Array = np.pad(counts, (0, length - len(counts)))
    return found


def _size(pixels: Array) -> str:
    return "×".join(map(str, pixels.shape[::-1]))
