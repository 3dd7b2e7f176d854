"""The precisions that artifacts are built in, and the error that each may have. Inert rows: numpy, no torch.

Build hosts and devices read the same rows. A precision that has none is an error wherever it is met: nothing is ever
judged by another precision's bound. Plug-ins build in these precisions and add none of their own, because a device
without the plug-in must still know the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgevit.errors import UnknownName

FLOOR = 1e-5  # below it, float32 sums in another order already differ
NOISE_FACTOR = 10.0
# Times the noise: a margin is moved by the errors of both its classes, and an error on other images than those that the
# noise was measured on may be twice as large.
CLEAR = 4.0
_MEDIAN_FLOOR, _MEDIAN_FACTOR = 1e-4, 3.0
MEDIAN_ROWS = 16  # of fewer rows more than half may meet a step by chance
TINY = float(np.finfo(np.float32).tiny)  # what is smaller loses its digits, and engines take it for zero

Array = np.ndarray[Any, Any]
Emulation = Literal["eager", "rounded to fp16", "rounded to bf16", "simulated integers"]


@dataclass(frozen=True)
class Precision:
    """One way to store and compute floats.

    storage    type of weights and activations between operators
    compute    type that sums are taken in
    ceiling    the largest tolerance an artifact may have, however noisy its model
    emulation  how the eager model is run to find its noise: as it is, with every result rounded, or in the integers of
               a plan: then its reference is what these compute, and its noise how far they move with their inputs
    factor     times the noise, the tolerance is
    floor      the smallest tolerance
    weighed    whether what an artifact costs on data is measured, with its own runtime
    """

    name: str
    storage: str
    compute: str
    ceiling: float
    emulation: Emulation
    factor: float = NOISE_FACTOR
    floor: float = FLOOR
    weighed: bool = False

    @property
    def rounded_to(self) -> Literal["float16", "bfloat16"] | None:
        """The type that every result and weight is rounded to when its noise is emulated."""
        return {"rounded to fp16": "float16", "rounded to bf16": "bfloat16"}.get(self.emulation)  # type: ignore[return-value]

    @property
    def integers(self) -> bool:
        """Whether layers are computed in the integers of a plan, or their weights alone stored so."""
        return self.emulation == "simulated integers"


_ROWS = {
    row.name: row
    for row in (
        Precision("fp32", "float32", "float32", ceiling=1e-3, emulation="eager"),
        Precision("fp16", "float16", "float32", ceiling=2e-2, emulation="rounded to fp16"),
        # Eight bits of a number are left: ten times that would let pass anything.
        Precision("bf16", "bfloat16", "float32", ceiling=0.1, emulation="rounded to bf16", factor=3.0, weighed=True),
        # An activation that lies between two steps of its grid goes to either, and all that follows with it: outputs
        # then move by as much as integers cost at all.
        Precision("int8", "int8", "int32", ceiling=0.1, emulation="simulated integers", factor=3.0, floor=1e-3),
        # Weights alone, computed in floats: no grid is met, so that nothing but these floats' own rounding is left.
        Precision("w8", "int8", "float32", ceiling=2e-2, emulation="simulated integers", floor=1e-4),
        Precision("w4", "int4", "float32", ceiling=2e-2, emulation="simulated integers", floor=1e-4),
    )
}


INTEGER_PRECISIONS = tuple(row.name for row in _ROWS.values() if row.integers)
WEIGHT_PRECISIONS = tuple(row.name for row in _ROWS.values() if row.integers and row.compute == "float32")


def precision_row(name: str) -> Precision:
    """The row of a precision. UnknownName with the nearest one."""
    if name not in _ROWS:
        raise UnknownName("precision", name, _ROWS)
    return _ROWS[name]


def tolerance_for(noise: float, precision: str) -> float:
    """The bound on an output's error: a multiple of its noise, within the precision's limits."""
    row = precision_row(precision)
    return float(min(max(row.factor * noise, row.floor), row.ceiling)) if np.isfinite(noise) else row.ceiling


def median_tolerance(moved: float) -> float:
    """The bound on the median row's error of integers, of which the median moves so far by itself: most rows meet no
    step of a grid, so that an engine that computes the same moves them by float32's rounding alone."""
    return max(_MEDIAN_FLOOR, _MEDIAN_FACTOR * moved)


def error_of(got: Array, want: Array, clear: Array | None = None) -> float:
    """How wrong an output is: max |got - want| / max |want|; of integers and booleans the share that differs.

    ``clear`` says which values count, where not all do. inf for another shape, and when anything is not a number. An
    output that is zero everywhere, to float32, is judged by its absolute error. Labels have no distance: 3 is no better
    an answer than 9 where 2 is right.
    """
    found = Errors()
    found.take(got, want, clear)
    return found.value()


@dataclass
class Errors:
    """``error_of`` of rows that come one after another.

    worst    of those that are clear, the largest |got - want|
    largest  |want| of all
    other    values that are clear and differ, of ``counted``
    """

    worst: float = 0.0
    largest: float = 0.0
    other: int = 0
    counted: int = 0
    whole: bool = False

    def take(self, got: Array, want: Array, clear: Array | None = None) -> None:
        if got.shape != want.shape:
            self.worst = float("inf")
            return
        self.whole |= want.dtype.kind in "biu"
        for have, due, counts in in_blocks(got, want, clear):
            differ = have != due if counts is None else (have != due)[counts]
            self.other, self.counted = self.other + int(differ.sum()), self.counted + differ.size
            if want.dtype.kind not in "biu":
                self._distance(have.astype(np.float64), due.astype(np.float64), counts)

    def add(self, other: Errors) -> None:
        """Those of other rows."""
        self.worst, self.largest = max(self.worst, other.worst), max(self.largest, other.largest)
        self.other, self.counted = self.other + other.other, self.counted + other.counted
        self.whole |= other.whole

    def _distance(self, have: Array, due: Array, counts: Array | None) -> None:
        apart = np.abs(have - due).max(initial=0.0, where=True if counts is None else counts)
        # a NaN counts: max of Python would lose it
        self.worst, self.largest = (
            float(np.maximum(*pair)) for pair in ((self.worst, apart), (self.largest, np.abs(due).max(initial=0.0)))
        )

    def value(self) -> float:
        if self.whole and np.isfinite(self.worst):
            return self.other / self.counted if self.counted else 0.0
        error = self.worst / scale_of(self.largest)
        return error if np.isfinite(error) and np.isfinite(self.largest) else float("inf")


def scale_of(largest: float) -> float:
    """What errors are a share of: the largest magnitude; 1 where that is zero, or so small that float32 makes it
    zero."""
    return largest if not largest < TINY else 1.0


BLOCK = 1 << 18  # values that are looked at together: copies of whole rows could be as large as the model


def in_blocks(*arrays: Array | None) -> Iterator[list[Any]]:
    """The arrays, flattened in the shape of the first, a block at a time; None for those that are None."""
    shape = next(array.shape for array in arrays if array is not None)
    flat = [None if array is None else np.broadcast_to(array, shape).reshape(-1) for array in arrays]
    for start in range(0, math.prod(shape), BLOCK):
        yield [None if array is None else array[start : start + BLOCK] for array in flat]


def clear_of_noise(margins: Array, noise: float) -> Array:
    """Which decisions no noise explains away: those whose margin exceeds ``CLEAR`` × the noise of such margins."""
    found: Array = margins > CLEAR * max(noise, FLOOR / NOISE_FACTOR)
    return found


def whole_numbers(values: Array) -> bool:
    """Whether these are labels, masks or counts, in whatever type: no number lies between them."""
    if values.dtype.kind in "biu":
        return True
    return all(bool((block == np.round(block)).all()) for (block,) in in_blocks(values))


def largest(values: Array) -> float:
    """The largest magnitude, in float64."""
    found = (float(np.abs(block.astype(np.float64)).max(initial=0.0)) for (block,) in in_blocks(values))
    return max(found, default=0.0)
