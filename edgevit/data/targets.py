"""What dense data says of every image: beside classes, which are numbers in ``LabelledData.labels``.

kind       one target
masks      (H, W) int64, the class of every pixel; ``IGNORE`` where nothing counts
pictures   (H, W, 3) uint8, what a restored picture should be
objects    ``Objects``
depth      (H, W) float32 metres, 0 where unknown
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgevit.data.loaded import Loaded

Kind = Literal["masks", "pictures", "objects", "depth"]
Array = np.ndarray[Any, Any]

IGNORE = -1


@dataclass(frozen=True)
class Objects:
    """Everything that is to be found in one image.

    boxes    (n, 4) float64: x0 y0 x1 y1 in pixels
    classes  (n,) int64
    masks    (n, H, W) bool, None for data of boxes alone
    crowd    (n,) bool: many objects under one box, which is neither found nor missed
    """

    boxes: Array
    classes: Array
    masks: Array | None
    crowd: Array


class Targets(Loaded[Any]):
    """Targets of one kind, as ``Images`` are of pictures."""

    def __init__(
        self,
        kind: Kind,
        load: Callable[[int], Any],
        indices: Iterable[int],
        digest: Callable[[int], bytes] | None = None,
    ) -> None:
        super().__init__(load, indices, digest)
        self.kind = kind

    def renumbered(self, places: Array) -> Targets:
        """The same with class i called ``places[i]``; what counts no classes as it is."""
        load, indices = self._load, self._indices
        return Targets(self.kind, lambda index: _renumbered(load(index), self.kind, places), indices, self._digest)

    def _hash_of(self, row: Any) -> bytes:
        arrays = vars(row).values() if isinstance(row, Objects) else [row]
        found = hashlib.sha256(self.kind.encode())
        for array in arrays:
            if array is not None:
                found.update(f"|{array.shape} {array.dtype}|".encode() + np.ascontiguousarray(array).tobytes())
        return found.digest()


def _renumbered(target: Any, kind: Kind, places: Array) -> Any:
    if kind == "masks":
        return np.append(places, IGNORE)[target]  # whose last place is that of IGNORE
    if kind == "objects":
        return replace(target, classes=places[target.classes])
    return target
