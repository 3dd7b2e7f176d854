"""Order along an axis: sorting, the largest, running sums, and places as one-hot vectors.

Of equals the first comes first. Core ML does not say which does, so a program must not depend on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import computes, moves


@moves("topk")
def topk(
    x: Array,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> list[Array]:
    """The k largest along ``axis`` in order, or the smallest when ``ascending``, and where they were; -1 is all."""
    count = x.shape[int(axis)] if int(k) == -1 else int(k)
    found = np.take(_order(x, int(axis), bool(ascending)), np.arange(count), axis=int(axis))
    values = np.take_along_axis(x, found, axis=int(axis))
    return [values, found] if return_indices else [values]


@moves("argsort")
def argsort(x: Array, axis: int = -1, ascending: bool = False) -> Array:
    """Where the elements of an axis were before sorting."""
    return _order(x, int(axis), bool(ascending))


def _order(x: Array, axis: int, ascending: bool) -> Array:
    if ascending:
        return np.argsort(x, axis=axis, kind="stable")
    # sorted from behind and read from behind, so that equals keep their order: not all types can be negated
    return np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)


@computes("cumsum")
def cumsum(x: Array, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Array:
    """Sums of all up to each element of ``axis``, without itself when ``exclusive``, from the end when ``reverse``."""
    place = int(axis)
    given = np.flip(x, place) if reverse else x
    if exclusive:
        first = np.zeros_like(np.take(given, [0], axis=place))
        given = np.concatenate([first, np.delete(given, -1, axis=place)], axis=place)
    found = np.cumsum(given, axis=place, dtype=x.dtype)
    return np.asarray(np.flip(found, place) if reverse else found)


@moves("one_hot")
def one_hot(indices: Array, one_hot_vector_size: int, axis: int = -1, on_value: Any = 1, off_value: Any = 0) -> Array:
    """``on_value`` at the places ``indices`` of a new axis, ``off_value`` elsewhere."""
    hit = np.expand_dims(indices, -1) == np.arange(int(one_hot_vector_size))
    return np.where(np.moveaxis(hit, -1, int(axis)), on_value, off_value)


@moves("non_zero")
def non_zero(x: Array) -> Array:
    """(N, rank) places of what is not zero, in row-major order."""
    return np.argwhere(x)
