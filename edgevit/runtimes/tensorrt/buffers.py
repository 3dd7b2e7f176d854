"""Where every tensor lies: one block of device memory and one of pinned host memory, reused by every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.artifact.manifest import TensorSpec
from edgevit.errors import Unsupported

ALIGNMENT = 256  # bytes; what cudaMalloc itself gives


@dataclass(frozen=True)
class Slot:
    """One tensor's place in both blocks.

    row_shape  without the batch axis where that is dynamic
    follows    whether other sides than that are free
    """

    name: str
    dtype: np.dtype[np.generic]
    offset: int
    row_shape: tuple[int, ...]
    dynamic: bool
    follows: bool = False

    @property
    def free(self) -> bool:
        """Whether the engine has to be told its shape."""
        return self.dynamic or self.follows

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows, *self.row_shape) if self.dynamic else self.row_shape

    def nbytes(self, rows: int) -> int:
        """Bytes of ``rows`` rows: what is copied per call."""
        return int(np.prod(self.shape(rows), dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class BufferPlan:
    """Slots of all inputs, then of all outputs; ``nbytes`` of each block, for the largest batch."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    nbytes: int


def plan_buffers(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_rows: int) -> BufferPlan:
    """Aligned places, in the order of the specs, that do not overlap at any batch up to ``max_rows``."""
    slots, end = [], 0
    for spec in (*inputs, *outputs):
        dynamic = spec.shape[:1] == ("batch",)
        sides = tuple(side for side in spec.shape if side != "batch")
        slot = Slot(spec.name, np.dtype(spec.dtype), end, sides, dynamic, bool(spec.sides))
        slots.append(slot)
        end = -(-(end + max(slot.nbytes(max_rows), 1)) // ALIGNMENT) * ALIGNMENT
    return BufferPlan(tuple(slots[: len(inputs)]), tuple(slots[len(inputs) :]), end)


def choose_profile(rows: int, ranges: Sequence[tuple[int, int, int]]) -> int:
    """Index of the engine's profile for a batch: the one tuned for the nearest size, among those that take it.

    ``ranges`` are (min, opt, max) rows per profile. Unsupported when none takes ``rows``.
    """
    able = [index for index, (low, _, high) in enumerate(ranges) if low <= rows <= high]
    if not able:
        taken = " and ".join(f"{low}-{high}" for low, _, high in ranges)
        raise Unsupported(f"the engine takes batches of {taken}, not {rows}", hint="export with --batch 1-N")
    return min(able, key=lambda index: abs(ranges[index][1] - rows))
