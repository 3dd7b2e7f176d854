"""From the model's pixels back to those of the image that was asked about."""

from __future__ import annotations

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.tasks.base import Asked


def back_to_image(decided: Array, asked: Asked, *, outside: int) -> Array:
    """A (h, w) map of whole numbers over what the model saw -> (H, W) over the image, ``outside`` where it saw nothing.

    Each pixel takes the value that lies where its middle is: labels have nothing in between.
    """
    top, left, bottom, right = asked.steps.window(*asked.size)
    height, width = asked.size
    rows, seen_rows = _nearest(height, top, bottom, decided.shape[0])
    columns, seen_columns = _nearest(width, left, right, decided.shape[1])
    found = decided[np.ix_(rows, columns)]
    return np.where(np.outer(seen_rows, seen_columns), found, outside)


def _nearest(length: int, first: float, last: float, count: int) -> tuple[Array, Array]:
    """For each of ``length`` pixels which of ``count`` values over [first, last) it takes, and if it lies there."""
    middle = np.arange(length) + 0.5
    inside = (middle >= first) & (middle < last)
    picks = np.floor((middle - first) / (last - first) * count).astype(np.int64)
    return np.clip(picks, 0, count - 1), inside


def boxes_in_image(boxes: Array, asked: Asked, *, unit: bool) -> Array:
    """(n, 4) boxes x0, y0, x1, y1 over what the model saw, in its pixels or as shares of it (``unit``) -> in the
    image's pixels, cut at its edges."""
    top, left, bottom, right = asked.steps.window(*asked.size)
    height, width = (1.0, 1.0) if unit else asked.steps.size
    scale = np.array([(right - left) / width, (bottom - top) / height] * 2)
    found = boxes.astype(np.float64) * scale + np.array([left, top] * 2)
    limits = np.array([asked.size[1], asked.size[0]] * 2, np.float64)
    cut: Array = np.clip(found, 0.0, limits)
    return cut


def overlaps(boxes: Array, objects: Array, crowd: Array | None = None) -> Array:
    """(finds, objects) intersection over union of boxes x0, y0, x1, y1; over the find's own area where the object is a
    ``crowd``."""
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas, theirs = _areas(boxes)[:, None], _areas(objects)[None]
    union = areas + theirs - both if crowd is None else np.where(crowd[None], areas, areas + theirs - both)
    share: Array = both / np.maximum(union, np.finfo(np.float64).tiny)
    return share


def _areas(boxes: Array) -> Array:
    found: Array = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=-1)
    return found
