"""Products of integers of 8 bits, four of which one instruction multiplies and adds up in 32 bits (VNNI).

A step of the reduction is then four of its own: four neighbours of a row, as bytes, in all lanes of a vector, by four
of each column, which lie beside each other in the packed panel. Sums of integers are exact, in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.sym.analyzer import Analyzer
from tvm.tirx import Broadcast, BufferLoad, BufferStore, Ramp

from edgevit.export.tvm.schedules.choosing import Choice
from edgevit.export.tvm.schedules.loops import Buffer, Expr, Stmt, index, sequence, static
from edgevit.export.tvm.schedules.shape import Shape, uncast
from edgevit.export.tvm.schedules.stages import Stage, substitute, uses

DEPTH = 4  # products that an instruction adds up
Point = Mapping[Any, Expr]


def by_four(anchor: Stage, shape: Shape) -> Stage | None:
    """The reduction in steps of four: of uint8 rows by int8 columns, whose innermost axis lies together in the rows and
    is a multiple of four; None for another."""
    row, column = uncast(shape.scalar), uncast(shape.vector)
    if not isinstance(row, TensorLoad) or not isinstance(column, TensorLoad) or str(anchor.buffer.dtype) != "int32":
        return None
    if (str(row.source.dtype), str(column.source.dtype)) != ("uint8", "int8"):
        return None
    *outer, last = anchor.reduced
    if not _lies_together(row.indices, last.variable) or last.size is None or last.size % DEPTH:
        return None
    return replace(anchor, reduced=(*outer, replace(last, extent=index(last.size // DEPTH))))


def _lies_together(indices: Sequence[Expr], variable: Any) -> bool:
    """Whether the next step is the next byte."""
    *outer, inner = indices
    first, second = (substitute(inner, {variable: index(step)}) for step in (0, 1))
    step = Analyzer().simplify(second - first)
    return static(step) == 1 and not any(uses(at, variable) for at in outer)


def update(choice: Choice, row: Callable[[int], Expr], column: Callable[[int], Expr], acc: Buffer) -> Stmt:
    """One step for every cell of a tile: ``row`` gives four bytes, ``column`` four for each lane of a vector."""
    width = choice.lanes

    def cell(number: int) -> Stmt:
        at, vector = divmod(number, choice.vectors)
        place = [Ramp(index(number * width), index(1), width)]
        bytes_of = tirx.reinterpret(f"int8x{DEPTH * width}", Broadcast(tirx.reinterpret("int32", row(at)), width))
        made = tirx.call_llvm_pure_intrin(
            f"int32x{width}", f"llvm.x86.avx512.vpdpbusd.{32 * width}", BufferLoad(acc, place), bytes_of, column(vector)
        )
        return BufferStore(acc, made, place)

    return sequence(*[cell(number) for number in range(choice.rows * choice.vectors)])


def four_of(load: Any, last: Any, at: Point) -> Expr:
    """Four neighbours of a row, where the point counts in steps of four."""
    scaled = {**at, last: at[last] * DEPTH}
    *outer, inner = (substitute(each, scaled) for each in load.indices)
    return BufferLoad(load.source, [*outer, Ramp(inner, index(1), DEPTH)])
