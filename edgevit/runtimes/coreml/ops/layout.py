"""Shapes and order of elements: nothing here changes a value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import moves


@moves("reshape")
def reshape(x: Array, shape: Sequence[int]) -> Array:
    """x in another shape: -1 is what is left; 0 takes x's side, counted from the last axis, or 1 beyond its first."""
    asked = [int(side) for side in shape]
    offset = x.ndim - len(asked)
    sides = [
        (x.shape[axis + offset] if axis + offset >= 0 else 1) if side == 0 else side for axis, side in enumerate(asked)
    ]
    return x.reshape(sides)


@moves("transpose")
def transpose(x: Array, perm: Sequence[int]) -> Array:
    """The axes in the order ``perm``."""
    return x.transpose([int(axis) for axis in perm])


@moves("expand_dims")
def expand_dims(x: Array, axes: Sequence[int]) -> Array:
    """New axes of length 1; ``axes`` are places in the result."""
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


@moves("squeeze")
def squeeze(x: Array, axes: Sequence[int] | None = None) -> Array:
    """Without those of ``axes`` (default all) whose length is 1; longer ones stay, as in PyTorch."""
    asked = [int(axis) % x.ndim for axis in axes] if axes is not None else range(x.ndim)
    return np.squeeze(x, tuple(axis for axis in asked if x.shape[axis] == 1))


@moves("concat")
def concat(values: list[Array], axis: int, interleave: bool = False) -> Array:
    """The tensors one after another, or element by element when ``interleave``. Scalars make a vector."""
    parts = [np.atleast_1d(value) for value in values]
    if not interleave:
        return np.concatenate(parts, axis=int(axis))
    place = int(axis) % parts[0].ndim
    woven = np.stack(parts, axis=place + 1)
    return woven.reshape(*parts[0].shape[:place], -1, *parts[0].shape[place + 1 :])


@moves("stack")
def stack(values: list[Array], axis: int) -> Array:
    """The tensors along a new axis."""
    return np.stack(values, axis=int(axis))


@moves("split")
def split(x: Array, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None) -> list[Array]:
    """Parts of the given sizes, or ``num_splits`` equal ones."""
    if split_sizes is None:
        return list(np.split(x, int(num_splits or 1), axis=int(axis)))
    return list(np.split(x, np.cumsum(split_sizes)[:-1], axis=int(axis)))


@moves("slice_by_index")
def slice_by_index(
    x: Array,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Array:
    """x[begin:end:stride] by axis. A mask makes that end open; ``squeeze_mask`` takes x[begin] and drops the axis."""
    no = (False,) * x.ndim
    index: list[int | slice] = []
    for axis in range(x.ndim):
        if (squeeze_mask if squeeze_mask is not None else no)[axis]:
            index.append(int(begin[axis]))
            continue
        first = None if (begin_mask if begin_mask is not None else no)[axis] else int(begin[axis])
        last = None if (end_mask if end_mask is not None else no)[axis] else int(end[axis])
        index.append(slice(first, last, int(stride[axis]) if stride is not None else 1))
    return np.asarray(x[tuple(index)])


@moves("slice_by_size")
def slice_by_size(x: Array, begin: Sequence[int], size: Sequence[int]) -> Array:
    """``size`` elements from ``begin`` on by axis; -1 takes all that remain. A negative begin counts from the end."""
    index = []
    for side, first, count in zip(x.shape, begin, size, strict=True):
        start = int(first) % side if side else 0
        index.append(slice(start, side if count == -1 else start + int(count)))
    return x[tuple(index)]


@moves("tile")
def tile(x: Array, reps: Sequence[int]) -> Array:
    """x repeated along each axis."""
    return np.tile(x, [int(count) for count in reps])


@moves("reverse")
def reverse(x: Array, axes: Sequence[int] | None = None) -> Array:
    """The elements along ``axes`` (default all) in reverse order."""
    return np.flip(x, tuple(int(axis) for axis in axes) if axes is not None else None)


@moves("pixel_shuffle")
def pixel_shuffle(x: Array, upscale_factor: int) -> Array:
    """(N, C·f², H, W) to (N, C, H·f, W·f), channels laid out as in PyTorch."""
    rows, channels, height, width = x.shape
    f = int(upscale_factor)
    blocks = x.reshape(rows, channels // (f * f), f, f, height, width)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(rows, -1, height * f, width * f)


@moves("pixel_unshuffle")
def pixel_unshuffle(x: Array, downscale_factor: int) -> Array:
    """(N, C, H·f, W·f) to (N, C·f², H, W): the inverse of ``pixel_shuffle``."""
    rows, channels, height, width = x.shape
    f = int(downscale_factor)
    blocks = x.reshape(rows, channels, height // f, f, width // f, f)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(rows, -1, height // f, width // f)
