"""Resizing of the last two axes, bilinear and nearest. MIL places the sampling points by mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError
from edgevit.runtimes.coreml.ops.registry import computes, moves


@computes("upsample_bilinear")
def upsample_bilinear(
    x: Array,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Array:
    """Bilinear to ⌊side × factor⌋. The spacing of the points comes from the sides, not from the factor."""
    if align_corners:
        mode = "STRICT_ALIGN_CORNERS"
    else:
        mode = "UNALIGN_CORNERS" if half_pixel_centers is None or half_pixel_centers else "DEFAULT"
    return _bilinear(x, _scaled(x, scale_factor_height, scale_factor_width), mode)


@computes("resize_bilinear")
def resize_bilinear(
    x: Array, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Array:
    """Bilinear to a given size."""
    return _bilinear(x, (int(target_size_height), int(target_size_width)), sampling_mode)


@moves("upsample_nearest_neighbor")
def upsample_nearest_neighbor(x: Array, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Array:
    """Nearest to ⌊side × factor⌋."""
    return _nearest(x, _scaled(x, scale_factor_height, scale_factor_width))


@moves("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Array, target_size_height: int, target_size_width: int) -> Array:
    """Nearest to a given size: output i is input ⌊i × side / size⌋."""
    return _nearest(x, (int(target_size_height), int(target_size_width)))


@computes("resize")
def resize(
    x: Array,
    shape: Sequence[int],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """The last ``resized_dims`` axes to the last sides of ``shape``, where 0 leaves an axis as it is."""
    if interpolation_mode != "LINEAR":
        raise EdgeVitError(
            f"the reference evaluator has no resize with {interpolation_mode}", hint="verify the package on a Mac"
        )
    count = int(resized_dims)
    for axis, asked in zip(range(-count, 0), [int(side) for side in shape][-count:], strict=True):
        x = _linear(x, axis, asked or x.shape[axis], sampling_mode)
    return x


def _scaled(x: Array, height: float, width: float) -> tuple[int, int]:
    """The new sides, with the product rounded to float32 as the shapes of the program are."""
    return math.floor(np.float32(height) * np.float32(x.shape[-2])), math.floor(
        np.float32(width) * np.float32(x.shape[-1])
    )


def _nearest(x: Array, sizes: Sequence[int]) -> Array:
    for axis, size in zip((-2, -1), sizes, strict=True):
        x = np.take(x, np.arange(size) * x.shape[axis] // size, axis=axis)
    return x


def _bilinear(x: Array, sizes: Sequence[int], mode: str) -> Array:
    for axis, size in zip((-2, -1), sizes, strict=True):
        x = _linear(x, axis, size, mode)
    return x


def _linear(x: Array, axis: int, size: int, mode: str) -> Array:
    """One axis, told from the end, to ``size`` elements."""
    points = _points(x.shape[axis], size, mode)
    low = np.floor(points).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (points - low).astype(x.dtype).reshape(-1, *[1] * (-1 - axis))
    below = np.take(x, low, axis=axis)
    return np.asarray(below + (np.take(x, high, axis=axis) - below) * share)


def _points(side: int, size: int, mode: str) -> Array:
    """Where the ``size`` samples lie on an axis of ``side`` elements, by MIL's sampling mode."""
    steps = np.arange(size, dtype=np.float64)
    if mode == "ALIGN_CORNERS" and size == 1:
        points = np.array([(side - 1) / 2])
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = steps * ((side - 1) / max(size - 1, 1))
    elif mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * (side / size) - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (steps + 0.5) * (max(1, side - 1) / size)
    else:
        points = steps * (side / size)
    return np.asarray(np.clip(points, 0, side - 1))
