"""Masks of COCO's annotations: polygons, and run lengths in both of their forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.data.rle import decoded
from edgevit.errors import UsageError

Array = np.ndarray[Any, Any]

_FAR = 1 << 24  # pixels; no picture has a corner there


def mask_of(segmentation: Any, size: tuple[int, int]) -> Array:
    """(H, W) bool of a ``segmentation`` as COCO has it. UsageError for what is none, or of another size."""
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise UsageError(
                f"a mask's size is {str(segmentation.get('size'))[:40]}, its image's {list(size)}",
                hint="check height and width in the annotations",
            )
        return decoded(segmentation)
    if not isinstance(segmentation, list) or not all(map(_is_outline, segmentation)):
        raise UsageError("a segmentation is neither run lengths nor lists of x y x y …", hint="is the file complete?")
    return _filled(segmentation, size)


def _filled(outlines: list[list[float]], size: tuple[int, int]) -> Array:
    """Every pixel whose middle lies in one of the outlines."""
    found = np.zeros(size, bool)
    for outline in outlines:
        found |= _inside(np.asarray(outline, np.float64).reshape(-1, 2), size)
    return found


def _inside(corners: Array, size: tuple[int, int]) -> Array:
    """By the even-odd rule: each edge turns over what lies right of it in the rows whose middle it crosses.

    Pillow's own polygons hold every pixel that an edge touches: half a pixel too much all round.
    """
    height, width = size
    turned = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        crossings = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0)) if len(rows) else rows
        np.add.at(turned, (rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)), 1)
    found: Array = turned.cumsum(axis=1)[:, :width] % 2 == 1
    return found


def _is_outline(outline: Any) -> bool:
    return (
        isinstance(outline, list)
        and len(outline) >= 6
        and len(outline) % 2 == 0
        and all(type(side) in (int, float) and abs(side) < _FAR for side in outline)
    )
