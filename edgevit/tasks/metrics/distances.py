"""Of depth: how far off it is, as a share of the distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import UsageError
from edgevit.tasks.base import Asked, Row
from edgevit.tasks.depth import Depth
from edgevit.tasks.metrics.base import nothing
from edgevit.tasks.places import back_to_image

CLOSE = 1.25  # δ1 counts what is less than this many times too far or too near
_ALLOWED = 0.005


class RelativeError:
    """AbsRel: the mean of |answer − truth| ÷ truth over the known pixels of an image, then over the images; δ1 beside
    it. Answers are taken as metres: nothing is scaled to fit.
    """

    name = "AbsRel"
    better: Literal["higher", "lower"] = "lower"

    def __init__(self) -> None:
        self._errors: list[float] = []
        self._close: list[float] = []

    def take(self, row: Row, target: Array, asked: Asked) -> None:
        if target.shape != asked.size:
            raise UsageError(
                f"a depth map has {target.shape[1]}×{target.shape[0]} values, "
                f"its image {asked.size[1]}×{asked.size[0]} pixels",
                hint="save depth in its image's size",
            )
        said = Depth().decode(row, asked).depth
        seen = back_to_image(np.ones(said.shape, np.int64), asked, outside=0)
        known = (target > 0) & (seen > 0)
        if not known.any():
            return
        true, found = target[known].astype(np.float64), back_to_image(said, asked, outside=0)[known].astype(np.float64)
        self._errors.append(float((np.abs(found - true) / true).mean()))
        near = (found > 0) & (found < CLOSE * true) & (found * CLOSE > true)
        self._close.append(float(near.mean()))

    def value(self) -> float:
        if not self._errors:
            raise nothing("a pixel whose distance is known")
        return float(np.mean(np.sort(self._errors)))

    def others(self) -> Mapping[str, float]:
        return {"δ1": float(np.mean(np.sort(self._close)))}

    def allowed(self) -> float:
        return _ALLOWED
