"""Masks as run lengths, as COCO writes them uncompressed: columns first, runs of 0 and 1 in turn, 0 first."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array


def encoded(mask: Array) -> dict[str, Any]:
    """(H, W) booleans as ``{"size": [H, W], "counts": [...]}``."""
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist() if flat.size else []
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": [int(side) for side in mask.shape], "counts": counts}


def decoded(record: dict[str, Any]) -> Array:
    """The (H, W) booleans that ``encoded`` took."""
    counts = np.asarray(record["counts"], np.int64)
    values = np.arange(len(counts)) % 2 == 1
    found: Array = np.repeat(values, counts).reshape(record["size"], order="F")
    return found
