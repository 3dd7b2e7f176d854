"""The precisions that artifacts are built in, and the error that each may have. Inert rows: numpy, no torch.

Build hosts and devices read the same rows. A precision that has none is an error wherever it is met: nothing is ever
judged by another precision's bound. Plug-ins build in these precisions and add none of their own, because a device
without the plug-in must still know the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgevit.errors import UnknownName

FLOOR = 1e-5  # below it, float32 sums in another order already differ
NOISE_FACTOR = 10.0
# Times the noise: a margin is moved by the errors of both its classes, and an error on other images than those that the
# noise was measured on may be twice as large.
CLEAR = 4.0

Array = np.ndarray[Any, Any]
Emulation = Literal["eager", "rounded to fp16"]


@dataclass(frozen=True)
class Precision:
    """One way to store and compute floats.

    storage    type of weights and activations between operators
    compute    type that sums are taken in
    ceiling    the largest tolerance an artifact may have, however noisy its model
    emulation  how the eager model is run to find its noise: as it is, or with every result rounded
    """

    name: str
    storage: str
    compute: str
    ceiling: float
    emulation: Emulation


_ROWS = {
    row.name: row
    for row in (
        Precision("fp32", "float32", "float32", ceiling=1e-3, emulation="eager"),
        Precision("fp16", "float16", "float32", ceiling=2e-2, emulation="rounded to fp16"),
    )
}


def precision_row(name: str) -> Precision:
    """The row of a precision. UnknownName with the nearest one."""
    if name not in _ROWS:
        raise UnknownName("precision", name, _ROWS)
    return _ROWS[name]


def tolerance_for(noise: float, precision: str) -> float:
    """The bound on an output's error: 10 × the eager model's noise, within the precision's limits."""
    highest = precision_row(precision).ceiling
    return float(min(max(NOISE_FACTOR * noise, FLOOR), highest)) if np.isfinite(noise) else highest


def error_of(got: Array, want: Array, clear: Array | None = None) -> float:
    """How wrong an output is: max |got - want| / max |want|; of integers and booleans the share that differs.

    ``clear`` says which values count, where not all do. inf for another shape, and when anything is not a number. An
    output that is zero everywhere is judged by its absolute error. Labels have no distance: 3 is no better an answer
    than 9 where 2 is right.
    """
    if got.shape != want.shape:
        return float("inf")
    if want.dtype.kind in "biu":
        other = got != want if clear is None else (got != want)[clear]
        return float(np.mean(other)) if other.size else 0.0
    exact, expected = got.astype(np.float64), want.astype(np.float64)
    error = float(np.abs(exact - expected).max(initial=0.0, where=True if clear is None else clear))
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return error / scale if np.isfinite(error) and np.isfinite(scale) else float("inf")


def clear_of_noise(margins: Array, noise: float) -> Array:
    """Which decisions no noise explains away: those whose margin exceeds ``CLEAR`` × the noise of such margins."""
    found: Array = margins > CLEAR * max(noise, FLOOR / NOISE_FACTOR)
    return found


def whole_numbers(values: Array) -> bool:
    """Whether these are labels, masks or counts, in whatever type: no number lies between them."""
    return values.dtype.kind in "biu" or bool((values == np.round(values)).all())
