"""The fixed 80 % for training, and the 20 % held out from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgevit.data.labelled import LabelledData, Pixels, Split
from edgevit.errors import UsageError

HELD_OUT = 0.2


def stratified_split(
    labels: Sequence[int] | np.ndarray[Any, Any], held_out: float = HELD_OUT, seed: int = 0
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """(train indices, held-out indices), both ascending: ``ceil(held_out * N)`` rows shared out over classes.

    Each class gives its share to within one row; a class of two or more is on both sides, a class of one is trained on.
    """
    if not 0 < held_out < 1:
        raise UsageError(f"the held-out share must be between 0 and 1, not {held_out}")
    values = np.asarray(labels)
    # RandomState, not default_rng: its stream is frozen for all numpy versions, so devices get the build host's split.
    random = np.random.RandomState(seed)
    classes, counts = np.unique(values, return_counts=True)
    held = [
        random.permutation(np.flatnonzero(values == label))[:quota]
        for label, quota in zip(classes, _quotas(counts, held_out), strict=True)
    ]
    held_idx = np.sort(np.concatenate([np.empty(0, np.int64), *held])).astype(np.int64)
    return np.setdiff1d(np.arange(len(values), dtype=np.int64), held_idx), held_idx


def _quotas(counts: np.ndarray[Any, Any], held_out: float) -> np.ndarray[Any, Any]:
    """How many rows each class gives: largest remainders, then at least one and never all."""
    exact = counts * held_out
    quotas = np.floor(exact).astype(np.int64)
    total = math.ceil(round(float(exact.sum()), 9))
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: total - int(quotas.sum())]] += 1
    bounded: Pixels = np.minimum(np.maximum(quotas, counts > 1), counts - 1)
    return bounded


def part(data: LabelledData, split: Split, seed: int) -> LabelledData:
    if split == "all":
        return data
    labels = np.zeros(len(data), np.int64) if data.labels is None else data.labels
    train, held = stratified_split(labels, seed=seed)
    return data.take(train if split == "train" else held)


def spread(data: LabelledData, count: int) -> LabelledData:
    """At most ``count`` rows, evenly spread: folders are sorted by class, so the first rows would be one class."""
    if len(data) <= count:
        return data
    return data.take(np.linspace(0, len(data) - 1, count).round().astype(np.int64))
