"""Making tensors, reading from them by index, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError
from edgevit.runtimes.coreml.ops.registry import moves

_PAD_MODES: dict[str, Literal["constant", "reflect", "edge"]] = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
}


@moves("shape")
def shape(x: Array) -> Array:
    """The sides of x, int32."""
    return np.array(x.shape, np.int32)


@moves("fill")
def fill(shape: Sequence[int], value: Any = 0.0) -> Array:
    """A tensor of one value."""
    return np.full([int(side) for side in shape], value)


@moves("fill_like")
def fill_like(ref_tensor: Array, value: Any = 0.0) -> Array:
    """A tensor of one value in the shape of another."""
    return np.full(ref_tensor.shape, value)


@moves("range_1d")
def range_1d(end: Any, start: Any, step: Any) -> Array:
    """start, start + step, … below end."""
    return np.arange(start, end, step)


@moves("band_part")
def band_part(x: Array, lower: int = -1, upper: int = -1) -> Array:
    """x with zeros outside a band of the last two axes: ``lower`` diagonals below and ``upper`` above, -1 for all."""
    below = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])
    kept = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
    return np.where(kept, x, np.zeros((), x.dtype))


@moves("pad")
def pad(x: Array, pad: Sequence[int], mode: str = "constant", constant_val: Any = 0.0) -> Array:
    """x with ``pad`` (before, after, before, …) around its last axes."""
    pairs = [(int(before), int(after)) for before, after in zip(pad[::2], pad[1::2], strict=True)]
    around = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, around, constant_values=constant_val)
    return np.pad(x, around, mode=_PAD_MODES[mode])


@moves("gather")
def gather(x: Array, indices: Array, axis: int = 0, batch_dims: int = 0, validate_indices: bool | None = None) -> Array:
    """Slices of x at ``indices`` along ``axis``; the first ``batch_dims`` axes of both are walked together."""
    place = int(axis) % x.ndim
    check_indices("gather", indices, x.shape[place], validate_indices)
    if not batch_dims:
        return np.take(x, indices, axis=place)
    together = x.shape[:batch_dims]
    tables = x.reshape(-1, *x.shape[batch_dims:])
    wanted = np.reshape(indices, (len(tables), *np.shape(indices)[batch_dims:]))
    found = [np.take(table, one, axis=place - batch_dims) for table, one in zip(tables, wanted, strict=True)]
    return np.stack(found).reshape(*together, *found[0].shape)


@moves("gather_along_axis")
def gather_along_axis(x: Array, indices: Array, axis: int = 0, validate_indices: bool | None = None) -> Array:
    """Elements of x at ``indices`` along ``axis``; all other axes are walked together."""
    check_indices("gather_along_axis", indices, x.shape[int(axis)], validate_indices)
    return np.take_along_axis(x, np.asarray(indices, np.int64), axis=int(axis))


@moves("gather_nd")
def gather_nd(x: Array, indices: Array, batch_dims: int = 0, validate_indices: bool | None = None) -> Array:
    """The parts x[i] for every vector i in the last axis of ``indices``."""
    shared = np.indices(indices.shape[:-1], sparse=True)[:batch_dims] if batch_dims else ()
    own = np.moveaxis(indices, -1, 0)
    for axis, one in enumerate(own):
        check_indices("gather_nd", one, x.shape[batch_dims + axis], validate_indices)
    where = (*shared, *own)
    return np.asarray(x[where])


def check_indices(name: str, indices: Array, side: int, validate: bool | None) -> None:
    """From iOS 17 on (where ``validate_indices`` exists) a negative index is out of bounds, before it is not.

    What Core ML reads out of bounds is undefined, so the evaluator never guesses.
    """
    lowest = -side if validate is None else 0
    if np.size(indices) and (np.min(indices) < lowest or np.max(indices) >= side):
        raise EdgeVitError(
            f"{name} reads outside its tensor: index {int(np.min(indices))} to {int(np.max(indices))} of {side}",
            hint="the program is undefined there on Core ML too: report the model",
        )
