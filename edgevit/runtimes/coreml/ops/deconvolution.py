"""Transposed convolution in one to three dimensions: a matrix product a row, its columns added where windows lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import computes
from edgevit.runtimes.coreml.ops.windows import Windows


@computes("conv_transpose")
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pad_type: str = "valid",
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    groups: int = 1,
) -> Array:
    """(N, C, *D) and weights (C, C_out / groups, *K) to (N, C_out, *out).

    ``pad`` is cut from what the windows cover, with "custom"; "same" keeps D · stride of it. ``output_shape`` says how
    much is kept, and what no window covers is 0.
    """
    axes = x.ndim - 2
    once = (1,) * axes
    shape = _windows(x, weight, once if strides is None else strides, once if dilations is None else dilations)
    spread = _spread(x, weight, shape, int(groups))
    for axis in range(axes):
        before, side = _kept(axis, shape, x.shape[2 + axis], pad_type, pad)
        side = side if output_shape is None else int(output_shape[2 + axis])
        spread = _cut(spread, 2 + axis, before, side)
    return spread if bias is None else spread + np.reshape(bias, (-1,) + (1,) * axes)


def _windows(x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int]) -> Windows:
    """The windows of the convolution that this one transposes: one for each element of x."""
    kernel, steps, spread = (tuple(int(each) for each in given) for given in (weight.shape[2:], strides, dilations))
    return Windows(kernel, steps, spread, ((0, 0),) * len(kernel), x.shape[2:])


def _spread(x: Array, weight: Array, shape: Windows, groups: int) -> Array:
    """All that the windows cover, row by row."""
    channels = weight.shape[1] * groups
    sides = [shape.reach(axis) for axis in range(len(shape.out))]
    filters = weight.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)
    out = np.zeros((x.shape[0], channels, *sides), x.dtype)
    for row, given in zip(out, x, strict=True):
        columns = (filters @ given.reshape(groups, x.shape[1] // groups, -1)).reshape(channels, -1, *shape.out)
        for tap, view in enumerate(shape.taps(row)):
            view += columns[:, tap]
    return out


def _kept(axis: int, shape: Windows, side: int, pad_type: str, pad: Sequence[int] | None) -> tuple[int, int]:
    """Where the output begins in what the windows cover, and its side."""
    reach = shape.reach(axis)
    if pad_type == "custom" and pad is not None:
        before, after = int(pad[2 * axis]), int(pad[2 * axis + 1])
        return before, reach - before - after
    if pad_type == "same":
        kept = side * shape.strides[axis]
        return max(0, reach - kept) // 2, kept
    return 0, reach


def _cut(x: Array, axis: int, before: int, side: int) -> Array:
    missing = max(0, before + side - x.shape[axis])
    around = [(0, missing if each == axis else 0) for each in range(x.ndim)]
    whole = np.pad(x, around) if missing else x
    return np.asarray(whole[(slice(None),) * axis + (slice(before, before + side),)])
