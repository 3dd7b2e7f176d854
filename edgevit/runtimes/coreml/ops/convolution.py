"""Convolution in one to three dimensions: columns and BLAS, or tap by tap when every channel has its own kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import computes
from edgevit.runtimes.coreml.ops.windows import Windows, windows

_COLUMNS = 4096  # windows per BLAS call: enough for its speed, few enough to keep the columns small
_BLOCK = 1 << 16  # outputs that the depthwise loop handles at once, so that they stay in the cache


@computes("conv")
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] = (),
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Array:
    """(N, C, *D) and weights (C_out, C / groups, *K) to (N, C_out, *out)."""
    steps = strides if strides is not None else (1,) * (x.ndim - 2)
    shape = windows(x.shape[2:], weight.shape[2:], steps, pad_type, pad, dilations)
    padded = shape.padded(x)
    convolve = _depthwise if weight.shape[1] == 1 and groups > 1 else _dense
    out = convolve(padded, weight, shape, int(groups))
    if bias is not None:
        out += np.reshape(bias, (-1,) + (1,) * (x.ndim - 2))
    return out


def _dense(padded: Array, weight: Array, shape: Windows, groups: int) -> Array:
    """A matrix product per group, over the columns of a few rows at a time."""
    rows, channels = padded.shape[:2]
    filters = weight.reshape(groups, weight.shape[0] // groups, -1)
    out = np.empty((rows, weight.shape[0], *shape.out), padded.dtype)
    step = max(1, _COLUMNS // max(1, int(np.prod(shape.out))))
    for start in range(0, rows, step):
        part = padded[start : start + step].swapaxes(0, 1)
        found = filters @ _columns(part, shape).reshape(groups, channels // groups * shape.size, -1)
        out[start : start + step] = found.reshape(-1, part.shape[1], *shape.out).swapaxes(0, 1)
    return out


def _columns(part: Array, shape: Windows) -> Array:
    """(C, n, *D) to (C, taps, n, *out)."""
    if shape.size == 1:
        return next(shape.taps(part))[:, None]
    columns = np.empty((part.shape[0], shape.size, part.shape[1], *shape.out), part.dtype)
    for tap, view in enumerate(shape.taps(part)):
        columns[:, tap] = view
    return columns


def _depthwise(padded: Array, weight: Array, shape: Windows, groups: int) -> Array:
    """Multiply and add tap by tap, a block of channels at a time."""
    multiplier = weight.shape[0] // groups
    if multiplier > 1:
        padded = np.repeat(padded, multiplier, axis=1)
    rows, channels = padded.shape[:2]
    planes = padded.reshape(rows * channels, *padded.shape[2:])
    filters = np.tile(weight.reshape(channels, -1), (rows, 1)).reshape(len(planes), shape.size, *[1] * len(shape.out))
    out = np.zeros((len(planes), *shape.out), padded.dtype)
    step = max(1, _BLOCK // max(1, int(np.prod(shape.out))))
    for start in range(0, len(planes), step):
        block = slice(start, start + step)
        product = np.empty_like(out[block])
        for tap, view in enumerate(shape.taps(planes[block])):
            np.multiply(view, filters[block, tap], out=product)
            out[block] += product
    return out.reshape(rows, channels, *shape.out)
