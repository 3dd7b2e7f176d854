"""Where a window of taps lies on padded spatial axes: what convolution and pooling share.

Arrays are (N, C, *D) with one to three spatial axes. A tap is one position inside the window; for each tap, the
elements under it in all windows are a strided view of the padded input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array


@dataclass(frozen=True)
class Windows:
    """``out`` windows on each spatial axis. ``pads`` holds what was asked for before and after each axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    out: tuple[int, ...]

    def padded(self, x: Array, value: float = 0.0) -> Array:
        """``x`` with ``value`` around its spatial axes as far as the windows reach; ``x`` itself if they fit."""
        around = [(0, 0), (0, 0)]
        for axis, side in enumerate(x.shape[2:]):
            before = self.pads[axis][0]
            around.append((before, max(0, self.reach(axis) - side - before)))
        return np.pad(x, around, constant_values=value) if any(map(any, around)) else x

    def reach(self, axis: int) -> int:
        """Elements from the first window's begin to the last one's end."""
        return (self.out[axis] - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def taps(self, padded: Array) -> Iterator[Array]:
        """For each tap, in row-major order, the view (…, *out) of the elements under it."""
        for tap in itertools.product(*(range(size) for size in self.kernel)):
            under = (Ellipsis, *self._under(tap))
            yield padded[under]

    def _under(self, tap: Sequence[int]) -> Iterator[Any]:
        for place, dilation, stride, count in zip(tap, self.dilations, self.strides, self.out, strict=True):
            start = place * dilation
            yield slice(start, start + (count - 1) * stride + 1, stride)

    @property
    def size(self) -> int:
        """Taps in a window."""
        return math.prod(self.kernel)


def windows(
    sides: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    dilations: Sequence[int] | None = None,
    *,
    ceil_mode: bool = False,
) -> Windows:
    """Windows on spatial ``sides``, as MIL defines ``pad_type``: valid, custom (``pad``), same, same_lower.

    "same" pads so that each axis gives ⌈side / stride⌉ windows; an odd element goes after the axis, and before it for
    "same_lower". With ``ceil_mode`` a last window may hang over the end, but must begin inside the input or the padding
    before it.
    """
    steps = tuple(int(step) for step in strides)
    spread = tuple(int(step) for step in dilations) if dilations is not None else (1,) * len(steps)
    reach = [(int(size) - 1) * step + 1 for size, step in zip(kernel, spread, strict=True)]
    pairs = [_pads(axis, sides, reach, steps, pad_type, pad) for axis in range(len(steps))]
    out = [
        _count(side, window, step, *pair, ceil_mode=ceil_mode)
        for side, window, step, pair in zip(sides, reach, steps, pairs, strict=True)
    ]
    return Windows(tuple(int(size) for size in kernel), steps, spread, tuple(pairs), tuple(out))


def _pads(
    axis: int, sides: Sequence[int], reach: Sequence[int], steps: Sequence[int], pad_type: str, pad: Sequence[int]
) -> tuple[int, int]:
    if pad_type == "valid":
        return 0, 0
    if pad_type == "custom":
        return int(pad[2 * axis]), int(pad[2 * axis + 1])
    side, step = sides[axis], steps[axis]
    total = max(0, (math.ceil(side / step) - 1) * step + reach[axis] - side)
    less, more = total // 2, total - total // 2
    return (more, less) if pad_type == "same_lower" else (less, more)


def _count(side: int, window: int, step: int, before: int, after: int, *, ceil_mode: bool) -> int:
    room = side + before + after - window
    if not ceil_mode:
        return room // step + 1
    count = -(-room // step) + 1
    return count - 1 if (count - 1) * step >= side + before and before + after > 0 else count
