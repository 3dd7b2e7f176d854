"""Masks as run lengths, as COCO writes them uncompressed: columns first, runs of 0 and 1 in turn, 0 first."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.errors import UsageError

Array = np.ndarray[Any, Any]


def encoded(mask: Array) -> dict[str, Any]:
    """(H, W) booleans as ``{"size": [H, W], "counts": [...]}``."""
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist() if flat.size else []
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": [int(side) for side in mask.shape], "counts": counts}


def decoded(record: dict[str, Any]) -> Array:
    """The (H, W) booleans that ``encoded`` took, or that COCO packed into text. UsageError for runs that are no mask of
    that size."""
    size, counts = record.get("size"), record.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise UsageError("a mask's run lengths do not say its size", hint="is the file complete?")
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise UsageError("a mask's run lengths are no whole numbers", hint="is the file complete?")
    if sum(runs) != size[0] * size[1]:
        raise UsageError(
            f"a mask's runs are {sum(runs):,} pixels long, where it has {size[0]}×{size[1]}",
            hint="is the file complete?",
        )
    found: Array = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")
    return found


def _unpacked(text: str) -> list[int] | None:
    """Runs out of COCO's text: numbers in pieces of five bits, the lowest first, a sixth bit says that more follow;
    from the fourth on the difference to the run before the last. None for what is no such text."""
    runs: list[int] = []
    value = shift = 0
    for piece in (ord(letter) - 48 for letter in text):
        if not 0 <= piece < 64 or shift > 30:
            return None
        value |= (piece & 31) << shift
        shift += 5
        if piece & 32:
            continue
        if piece & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs
