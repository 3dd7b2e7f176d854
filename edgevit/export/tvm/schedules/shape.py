"""What each axis of a reduction across columns is: batch, row, column or reduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from edgevit.export.tvm.schedules.loops import Expr, product
from edgevit.export.tvm.schedules.stages import Axis, Stage, loads, uses


@dataclass(frozen=True)
class Shape:
    """The roles of a reduction's axes.

    outer    batch axes, and rows of unknown number
    rows     axes whose positions share the column operand, together the rows of the tile
    column   the axis of the vectors
    vector   the column operand of a product, None where the operand is no product of two
    scalar   its other factor
    """

    outer: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    column: Axis
    vector: Expr = None
    scalar: Expr = None

    @property
    def row_count(self) -> int:
        return int(product([axis.size or 1 for axis in self.rows]))

    @property
    def columns(self) -> int:
        return self.column.size or 1


def classify(anchor: Stage, operand: Expr) -> Shape | None:
    """The axes' roles, None when this is not a reduction across columns."""
    if not anchor.axes or anchor.axes[-1].size is None:
        return None
    column = anchor.axes[-1]
    vector, scalar = _factors(operand, column.variable)
    if vector is None and not contiguous(operand, column.variable):
        return None
    shared = vector if vector is not None else _smallest_factor(operand)
    # From the innermost out, as long as the column operand is the same for all of them: only then is a vector of it,
    # once loaded, good for every row of a tile.
    rows: list[Axis] = []
    for axis in reversed(anchor.axes[:-1]):
        if axis.size is None or (shared is not None and uses(shared, axis.variable)):
            break
        rows.insert(0, axis)
        if vector is None:
            break  # a depthwise tile shares its weights only, and one axis has rows enough for that
    return Shape(anchor.axes[: len(anchor.axes) - 1 - len(rows)], tuple(rows), column, vector, scalar)


def _factors(operand: Expr, column: Any) -> tuple[Expr, Expr]:
    """(column operand, row operand) of a product of which one factor does not depend on the column."""
    if not isinstance(operand, tirx.Mul):
        return None, None
    first, second = operand.a, operand.b
    if uses(first, column) and not uses(second, column):
        return first, second
    if uses(second, column) and not uses(first, column):
        return second, first
    return None, None


def _smallest_factor(operand: Expr) -> Expr:
    """The factor of a product of two that depends on both, but reads the smaller buffer: a depthwise weight."""
    if not isinstance(operand, tirx.Mul):
        return None
    sized = [(len(each.indices), each) for each in loads(operand)]
    return min(sized, key=lambda pair: pair[0])[1] if len(sized) == 2 else None


def uncast(operand: Expr) -> Expr:
    """What is loaded, of a load that is turned into the type of the sums."""
    return operand.value if isinstance(operand, tirx.Cast) else operand


def contiguous(operand: Expr, column: Any) -> bool:
    found = [each for each in loads(operand) if any(uses(at, column) for at in each.indices)]
    return bool(found) and all(uses(each.indices[-1], column) for each in found)
