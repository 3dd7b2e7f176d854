"""Loops for a stage without a reduction: threads over the outer axes, vectors along the last one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tvm.tirx import BufferStore, ForKind

from edgevit.export.tvm.schedules.approximate import approximate
from edgevit.export.tvm.schedules.loops import (
    Expr,
    Stmt,
    index,
    lanes,
    loop,
    minimum,
    product,
    sequence,
    static,
    unflatten,
)
from edgevit.export.tvm.schedules.machine import Machine
from edgevit.export.tvm.schedules.stages import Stage, loads, substitute

WORK = 8  # an element counts as this many multiply-adds: a load and a store, nothing of which is in a register already


def nest(stage: Stage, value: Expr, machine: Machine, scratch: Collection[Any] = ()) -> Stmt:
    """``stage.buffer[axes] = value``, where ``value`` reads parameters and buffers that exist; those of ``scratch`` are
    made inside the kernel."""
    value = approximate(value)
    once = reads(value, scratch)
    if not stage.axes:
        return BufferStore(stage.buffer, value, [])
    *outer, last = stage.axes
    total = product([axis.extent for axis in outer])
    extents = [axis.extent for axis in outer]

    def line(flat: Expr) -> Stmt:
        at = dict(zip((axis.variable for axis in outer), unflatten(flat, extents), strict=True))
        return across(last.extent, machine, lambda column: _store(stage, value, {**at, last.variable: column}), once)

    work = static(product([axis.extent for axis in stage.axes]))
    kind = ForKind.PARALLEL if machine.parallel(None if work is None else work * WORK) else ForKind.SERIAL
    # a single line has nothing to divide: its columns are the vectors
    if static(total) == 1 and kind == ForKind.PARALLEL:
        kind = ForKind.SERIAL
    return loop("outer", total, line, kind)


def reads(value: Expr, buffers: Collection[Any]) -> bool:
    return any(load.source.same_as(each) for load in loads(value) for each in buffers)


def across(extent: Any, machine: Machine, body: Any, once: bool) -> Stmt:
    """``body(column)`` for every column of an axis, in vectors.

    The last vector overlaps the one before it, so ``body`` is run twice for some columns, unless it must be ``once``:
    TVM lets a buffer take the memory of one that is read for the last time at the same place, and what reads a buffer
    made inside the kernel would then read its own result the second time.
    """
    size = static(extent)
    if size is None:
        return loop("column", extent, body)
    width = vector_width(size, machine)
    if once and size % width:
        return _vectors_once(size, width, body)

    def vector(block: Expr) -> Stmt:
        # moved back instead of a scalar rest: a rest of 7 columns takes as long as 7 vectors
        start = minimum(block * width, size - width) if size % width else block * width
        return _vector(start, width, body)

    return loop("vector", -(-size // width), vector)


def _vectors_once(size: int, width: int, body: Any) -> Stmt:
    """Whole vectors, then ever shorter ones for the columns that are left."""
    done = size // width * width
    found = [loop("vector", done // width, lambda block: _vector(block * width, width, body))]
    while done < size:
        width = _narrowed(width, size - done)
        found.append(_vector(index(done), width, body))
        done += width
    return sequence(*found)


def _vector(start: Expr, width: int, body: Any) -> Stmt:
    return lanes(width, lambda lane: body(start + lane))


def vector_width(size: int, machine: Machine) -> int:
    """Lanes for an axis of ``size``: the machine's, or the largest power of two that fits."""
    return _narrowed(machine.lanes, size)


def _narrowed(width: int, size: int) -> int:
    while width > size:
        width //= 2
    return max(1, width)


def _store(stage: Stage, value: Expr, at: dict[Any, Expr]) -> Stmt:
    indices = [at[axis.variable] for axis in stage.axes]
    return BufferStore(stage.buffer, substitute(value, at), [index(each) for each in indices])
