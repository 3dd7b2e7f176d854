"""Loops for a stage without a reduction: threads over the outer axes, vectors along the last one."""

from __future__ import annotations

from typing import Any

from tvm.tirx import BufferStore, ForKind

from edgevit.export.tvm.schedules.approximate import approximate
from edgevit.export.tvm.schedules.loops import Expr, Stmt, index, lanes, loop, minimum, product, static, unflatten
from edgevit.export.tvm.schedules.machine import Machine
from edgevit.export.tvm.schedules.stages import Stage, substitute

WORK = 8  # an element counts as this many multiply-adds: a load and a store, nothing of which is in a register already


def nest(stage: Stage, value: Expr, machine: Machine) -> Stmt:
    """``stage.buffer[axes] = value``, where ``value`` reads parameters and buffers that exist."""
    value = approximate(value)
    if not stage.axes:
        return BufferStore(stage.buffer, value, [])
    *outer, last = stage.axes
    total = product([axis.extent for axis in outer])
    extents = [axis.extent for axis in outer]

    def line(flat: Expr) -> Stmt:
        at = dict(zip((axis.variable for axis in outer), unflatten(flat, extents), strict=True))
        return across(last.extent, machine, lambda column: _store(stage, value, {**at, last.variable: column}))

    work = static(product([axis.extent for axis in stage.axes]))
    kind = ForKind.PARALLEL if machine.parallel(None if work is None else work * WORK) else ForKind.SERIAL
    # a single line has nothing to divide: its columns are the vectors
    if static(total) == 1 and kind == ForKind.PARALLEL:
        kind = ForKind.SERIAL
    return loop("outer", total, line, kind)


def across(extent: Any, machine: Machine, body: Any) -> Stmt:
    """``body(column)`` for every column of an axis, in vectors; the last vector overlaps the one before it, so ``body``
    must not mind being run twice for a column."""
    size = static(extent)
    if size is None:
        return loop("column", extent, body)
    width = vector_width(size, machine)

    def vector(block: Expr) -> Stmt:
        # moved back instead of a scalar rest: a rest of 7 columns takes as long as 7 vectors
        start = minimum(block * width, size - width) if size % width else block * width
        return lanes(width, lambda lane: body(start + lane))

    return loop("vector", -(-size // width), vector)


def vector_width(size: int, machine: Machine) -> int:
    """Lanes for an axis of ``size``: the machine's, or the largest power of two that fits."""
    width = machine.lanes
    while width > size:
        width //= 2
    return max(1, width)


def _store(stage: Stage, value: Expr, at: dict[Any, Expr]) -> Stmt:
    indices = [at[axis.variable] for axis in stage.axes]
    return BufferStore(stage.buffer, substitute(value, at), [index(each) for each in indices])
