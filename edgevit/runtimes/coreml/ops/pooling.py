"""Average and maximum pooling, tap by tap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import computes
from edgevit.runtimes.coreml.ops.windows import Windows, windows


@computes("max_pool")
def max_pool(
    x: Array,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] = (),
    ceil_mode: bool = False,
) -> Array:
    """The largest element of each window; padding never wins."""
    shape = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    out = np.full((*x.shape[:2], *shape.out), -np.inf, x.dtype)
    for view in shape.taps(shape.padded(x, -np.inf)):
        np.maximum(out, view, out=out)
    return out


@computes("avg_pool")
def avg_pool(
    x: Array,
    kernel_sizes: Sequence[int],
    strides: Sequence[int] | None = None,
    pad_type: str = "valid",
    pad: Sequence[int] = (),
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Array:
    """The mean of each window.

    The divisor counts the window's elements inside the padded input, or inside the input alone when
    ``exclude_padding_from_average``. What hangs over the end through ``ceil_mode`` is never counted, as in PyTorch.
    """
    shape = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    out = np.zeros((*x.shape[:2], *shape.out), x.dtype)
    for view in shape.taps(shape.padded(x)):
        out += view
    counts = [_counted(shape, axis, side, exclude_padding_from_average) for axis, side in enumerate(x.shape[2:])]
    out /= reduce(np.multiply.outer, counts).astype(x.dtype)
    return out


def _counted(shape: Windows, axis: int, side: int, excluded: bool) -> Array:
    """How many taps of each window along ``axis`` lie on the input, and on its padding unless that is ``excluded``."""
    before, after = shape.pads[axis]
    begins = np.arange(shape.out[axis]) * shape.strides[axis] - before
    taps = begins[:, None] + np.arange(shape.kernel[axis])
    counted = (taps >= 0) & (taps < side) if excluded else taps < side + after
    return np.asarray(np.count_nonzero(counted, axis=1))


def _windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int] | None, pad_type: str, pad: Sequence[int], ceil_mode: bool
) -> Windows:
    steps = strides if strides is not None else (1,) * len(kernel)
    return windows(x.shape[2:], kernel, steps, pad_type, pad, ceil_mode=bool(ceil_mode))
