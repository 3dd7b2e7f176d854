"""What golden.npz keeps of a row that is large: every n-th value, and figures of all of them, a stretch at a time.

A device that computes the row judges the values that were kept one by one. The figures (mean, root mean square, least
and largest of each stretch) are about the rest: where no value is further off than the tolerance, none of them is. Of
labels and masks a stretch says which value is the commonest, and how often it must and may occur. A hash would say more
only where engines agree to the last bit, which they do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgevit.artifact.manifest import Array, Sample, TensorSpec
from edgevit.artifact.shelf import Named, Rows, is_large
from edgevit.precisions import largest

SAMPLE_BYTES = 1 << 20  # of a row that is large
STRIDED = 1 << 20  # values of a row at another size than a model's own
STRETCHES = 256  # in a row; the last may be shorter
FIGURES = 4  # of a stretch


def sample_of(rows: Rows, ranked: bool) -> Sample | None:
    """The sample that is kept of an output's rows; None where they are kept whole. ``ranked`` rows, which an artifact
    may give in another order, keep their first axis."""
    shape, dtype = rows.shape[1:], rows.dtype
    if not is_large(shape, dtype):
        return None
    kept, rest = (math.prod(part) for part in ((shape[:1], shape[1:]) if ranked else ((), shape)))
    stride = stride_of(rest, max(1, SAMPLE_BYTES // dtype.itemsize // kept))
    return Sample(axes=int(ranked), stride=stride, scale=max(map(largest, rows), default=0.0))


def stride_of(values: int, kept: int) -> int:
    """Every so many-th of ``values`` is kept, so that these are at most ``kept``."""
    stride = max(1, -(-values // kept))
    while math.gcd(stride, values) != 1 and stride < values:  # a divisor would meet the same columns in every line
        stride += 1
    return stride


def strided(rows: Named) -> dict[str, Array]:
    """Of outputs at another size than a model's own, (rows, …), what is kept: (rows, k) where a row has more than
    ``STRIDED`` values."""
    return {name: _strided(array) for name, array in rows.items()}


def _strided(rows: Rows) -> Array:
    values = math.prod(rows.shape[1:])
    if values > STRIDED:
        return np.stack([row.reshape(-1)[:: stride_of(values, STRIDED)].copy() for row in rows])
    return rows if isinstance(rows, np.ndarray) else np.stack(list(rows))


def spec_of_strided(spec: TensorSpec) -> TensorSpec:
    """What is kept of an output of a spec that is of another size."""
    values = math.prod(spec.rows(1))
    kept = -(-values // stride_of(values, STRIDED))
    return spec.model_copy(update={"shape": (spec.shape[0], kept), "sides": {}}) if values > STRIDED else spec


def sampled(row: Array, sample: Sample) -> Array:
    """Of a whole row the values that are kept: (k,), of a ranked one (ranks, k). A copy: a view would keep the row."""
    return row.reshape(*row.shape[: sample.axes], -1)[..., :: sample.stride].copy()


def spec_of_sample(spec: TensorSpec, sample: Sample) -> TensorSpec:
    """What golden.npz holds of an output, as a spec."""
    sides = [int(side) for side in spec.shape[1:]]
    kept = -(-math.prod(sides[sample.axes :]) // sample.stride)
    return spec.model_copy(update={"shape": (spec.shape[0], *sides[: sample.axes], kept)})


def figures_of(row: Array, clear: Array | None = None, *, decided: bool = False) -> Array:
    """(stretches, 4) of a whole row. Of numbers mean, root mean square, least, largest; NaN for a stretch in which not
    all is ``clear``. Of what is ``decided`` the commonest value, its number, and that of values that are not clear."""
    flat = row.reshape(-1)
    step = -(-len(flat) // STRETCHES)
    marks = None if clear is None else np.broadcast_to(clear, row.shape).reshape(-1)
    found = np.full((STRETCHES, FIGURES), np.nan)
    for index, start in enumerate(range(0, len(flat), step)):
        part = flat[start : start + step]
        unclear = 0 if marks is None else int((~marks[start : start + step]).sum())
        if decided:
            values, counts = np.unique(part, return_counts=True)
            found[index] = values[counts.argmax()], counts.max(), unclear, 0
        elif not unclear:
            exact = part.astype(np.float64)
            found[index] = exact.mean(), np.sqrt((exact * exact).mean()), exact.min(), exact.max()
    return found


@dataclass(frozen=True)
class Sampled:
    """The golden rows of an output that is large.

    shape    of a whole row
    values   (rows, …) what was kept
    figures  (rows, stretches, 4) of the whole rows; None where their ranks may change places
    """

    sample: Sample
    shape: tuple[int, ...]
    values: Array
    figures: Array | None = None


def further_off(row: Array, due: Array) -> float:
    """By how much the figures of a whole row differ from ``due`` at least; numbers only."""
    known = np.isfinite(due[:, 0])
    return float(np.abs(figures_of(row) - due).max(initial=0.0, where=known[:, None]))


def miscounted(row: Array, due: Array) -> int:
    """How many decided values of a whole row differ, at least, from those whose figures are ``due`` and are clear."""
    flat = row.reshape(-1)
    step = -(-len(flat) // STRETCHES)
    parts = [flat[start : start + step] for start in range(0, len(flat), step)]
    there = np.array([np.sum(part == common) for part, common in zip(parts, due[:, 0], strict=False)])
    wrong = np.abs(there - due[: len(there), 1]) - due[: len(there), 2]
    return int(np.nan_to_num(wrong).clip(0).sum())
