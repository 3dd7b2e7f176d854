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
    return np.asarray(x[slices(x.ndim, (begin, end, stride), (begin_mask, end_mask, squeeze_mask))])


def slices(
    rank: int,
    places: tuple[Sequence[int], Sequence[int], Sequence[int] | None],
    masks: tuple[Sequence[bool] | None, Sequence[bool] | None, Sequence[bool] | None],
) -> tuple[int | slice, ...]:
    """numpy's index of MIL's begin, end and stride, and of its masks for begin, end and squeeze."""
    begin, end, stride = places
    open_begin, open_end, squeezed = ((False,) * rank if mask is None else mask for mask in masks)
    index: list[int | slice] = []
    for axis in range(rank):
        if squeezed[axis]:
            index.append(int(begin[axis]))
            continue
        first = None if open_begin[axis] else int(begin[axis])
        last = None if open_end[axis] else int(end[axis])
        index.append(slice(first, last, int(stride[axis]) if stride is not None else 1))
    return tuple(index)


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


@moves("depth_to_space")
def depth_to_space(x: Array, block_size: int) -> Array:
    """(N, C·f², H, W) to (N, C, H·f, W·f), the channels of a block first: unlike ``pixel_shuffle``."""
    rows, channels, height, width = x.shape
    f = int(block_size)
    blocks = x.reshape(rows, f, f, channels // (f * f), height, width)
    return blocks.transpose(0, 3, 4, 1, 5, 2).reshape(rows, -1, height * f, width * f)


@moves("space_to_depth")
def space_to_depth(x: Array, block_size: int) -> Array:
    """(N, C, H·f, W·f) to (N, C·f², H, W): the inverse of ``depth_to_space``."""
    rows, channels, height, width = x.shape
    f = int(block_size)
    blocks = x.reshape(rows, channels, height // f, f, width // f, f)
    return blocks.transpose(0, 3, 5, 1, 2, 4).reshape(rows, -1, height // f, width // f)


@moves("crop")
def crop(x: Array, crop_height: Sequence[int], crop_width: Sequence[int]) -> Array:
    """x without so many rows and columns at both ends of its last two axes."""
    (top, bottom), (left, right) = (
        (int(before), x.shape[axis] - int(after)) for axis, (before, after) in ((-2, crop_height), (-1, crop_width))
    )
    return x[..., top:bottom, left:right]


@moves("sliding_windows")
def sliding_windows(x: Array, axis: int, size: int, stride: int = 1) -> Array:
    """All windows of an axis, their elements in a new axis behind it."""
    place = int(axis) % x.ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, int(size), axis=place)
    return np.moveaxis(windows[(slice(None),) * place + (slice(None, None, int(stride)),)], -1, place + 1)


@moves("flatten2d")
def flatten2d(x: Array, axis: int = 1) -> Array:
    """Two axes: those before ``axis``, and the others."""
    return x.reshape(int(np.prod(x.shape[: int(axis)], dtype=np.int64)), -1)


@moves("reshape_like")
def reshape_like(
    x: Array, ref_tensors: list[Array], begins: Sequence[int], ends: Sequence[int], end_masks: Sequence[bool]
) -> Array:
    """x in the sides of other tensors, a slice of the sides of each."""
    sides: list[int] = []
    for one, begin, end, whole in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sides += one.shape[int(begin) :] if whole else one.shape[int(begin) : int(end)]
    return x.reshape(sides)
