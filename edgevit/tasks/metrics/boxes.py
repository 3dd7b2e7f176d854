"""Of boxes: average precision as COCO defines it, all sizes of objects, at most 100 finds an image and class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.data.targets import Objects
from edgevit.tasks.base import Asked, Row
from edgevit.tasks.detect import found
from edgevit.tasks.metrics.base import DROP, nothing
from edgevit.tasks.places import overlaps

MOST = 100
OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass
class _Class:
    """All of one class so far: objects that count, and of every find its score, and at each overlap whether it is right
    (1), wrong (0) or lies in a crowd (-1), which is neither."""

    objects: int = 0
    scores: list[Array] = field(default_factory=list)
    right: list[Array] = field(default_factory=list)


class AveragePrecision:
    """AP at overlaps of 0.50 to 0.95, the mean over them and over the classes that have objects; AP50 beside it."""

    name = "AP"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self) -> None:
        self._classes: defaultdict[int, _Class] = defaultdict(_Class)

    def take(self, row: Row, target: Objects, asked: Asked) -> None:
        every = found(row, asked)
        for index in {*map(int, every.classes), *map(int, target.classes)}:
            finds, there = every.classes == index, target.classes == index
            scores, boxes = every.scores[finds][:MOST], every.boxes[finds][:MOST]
            crowd = target.crowd[there]
            one = self._classes[index]
            one.objects += int((~crowd).sum())
            one.scores.append(scores)
            one.right.append(matched(overlaps(boxes, target.boxes[there], crowd), crowd))

    def value(self) -> float:
        return float(self._precisions().mean())

    def others(self) -> Mapping[str, float]:
        return {"AP50": float(self._precisions()[:, 0].mean())}

    def allowed(self) -> float:
        return max(DROP, 1 / sum(one.objects for one in self._classes.values()))

    def _precisions(self) -> Array:
        """(classes, overlaps), of the classes that have objects."""
        counted = [one for _, one in sorted(self._classes.items()) if one.objects]
        if not counted:
            raise nothing("an object")
        return np.stack([_precision(one) for one in counted])


def matched(share: Array, crowd: Array) -> Array:
    """(finds, objects) overlaps -> (finds, OVERLAPS): 1 right, 0 wrong, -1 in a crowd. The surest find comes first.

    Every find takes the object that it overlaps most and that no surer one took; a crowd only where there is none left,
    and any number of finds may lie in it.
    """
    verdicts = np.zeros((len(share), len(OVERLAPS)), np.int8)
    for place, least in enumerate(OVERLAPS):
        free = ~crowd
        for find, shares in enumerate(share):
            if (best := _best(shares, free, least)) is not None:
                free[best], verdicts[find, place] = False, 1
            elif _best(shares, crowd, least) is not None:
                verdicts[find, place] = -1
    return verdicts


def _best(shares: Array, among: Array, least: float) -> int | None:
    able = np.flatnonzero(among & (shares >= least))
    return int(able[shares[able].argmax()]) if len(able) else None


def _precision(one: _Class) -> Array:
    """(OVERLAPS,) the mean of the precision at 101 recalls: at each the best that is had there or at a higher one."""
    scores, right = np.concatenate(one.scores), np.concatenate(one.right)
    # Of equal scores the wrong ones first: the order of the images decides nothing, and a tie is no advantage.
    found: Array = np.zeros(len(OVERLAPS))
    for place in range(len(OVERLAPS)):
        verdicts = right[:, place]
        order = np.lexsort((verdicts, -scores))
        verdicts = verdicts[order][verdicts[order] >= 0]
        hits = np.cumsum(verdicts)
        precision = np.maximum.accumulate((hits / (np.arange(len(hits)) + 1))[::-1])[::-1]
        at = np.searchsorted(hits / one.objects, RECALLS)
        found[place] = np.append(precision, 0.0)[np.minimum(at, len(precision))].mean()
    return found
