"""Writing into a tensor at computed places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError
from edgevit.runtimes.coreml.ops.layout import slices
from edgevit.runtimes.coreml.ops.registry import computes, moves
from edgevit.runtimes.coreml.ops.tensor import check_indices

_INTO: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@computes("scatter")
def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Array:
    """data with whole slices ``updates`` written to the places ``indices`` of one axis, in the way of ``mode``."""
    place = int(axis) % data.ndim
    check_indices("scatter", indices, data.shape[place], validate_indices)
    return _written(data, (slice(None),) * place + (indices,), updates, mode)


@computes("scatter_along_axis")
def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Array:
    """data with elements written to the places ``indices`` along one axis; all other axes are walked together."""
    place = int(axis) % data.ndim
    check_indices("scatter_along_axis", indices, data.shape[place], validate_indices)
    where: list[Array] = list(np.indices(indices.shape, sparse=True))
    where[place] = indices
    return _written(data, tuple(where), updates, mode)


@computes("scatter_nd")
def scatter_nd(
    data: Array, indices: Array, updates: Array, mode: str = "add", validate_indices: bool | None = None
) -> Array:
    """data with ``updates`` written to the parts data[i], for every vector i in the last axis of ``indices``."""
    where = tuple(np.moveaxis(indices, -1, 0))
    for axis, one in enumerate(where):
        check_indices("scatter_nd", one, data.shape[axis], validate_indices)
    return _written(data, where, updates, mode)


@moves("slice_update")
def slice_update(
    x: Array,
    update: Array,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Array:
    """x with ``update`` in the place of a slice of it, which is told as ``slice_by_index`` is."""
    out = np.array(x)
    out[slices(x.ndim, (begin, end, stride), (begin_mask, end_mask, squeeze_mask))] = update
    return out


def _written(data: Array, where: Any, updates: Array, mode: str) -> Array:
    """A copy of ``data``; what is written twice to a place is combined, or the last written with "update"."""
    out = np.array(data)
    if mode == "update":
        out[where] = updates
        return out
    if mode == "div" and out.dtype.kind != "f":
        raise EdgeVitError(
            "the reference evaluator does not divide integers in a scatter", hint="verify the package on a Mac"
        )
    _INTO[mode].at(out, where, updates)
    return out
