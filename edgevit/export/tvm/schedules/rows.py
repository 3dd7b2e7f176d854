"""Functions that reduce along rows and use the result for the same row: softmax, layer normalisation, a mean.

Every thread takes rows; each stage of a row is a loop of vectors over it, and what a later stage reads stays in the
first-level cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, ForKind

from edgevit.export.tvm.schedules.approximate import approximate
from edgevit.export.tvm.schedules.elementwise import across, vector_width
from edgevit.export.tvm.schedules.loops import (
    Buffer,
    Expr,
    Stmt,
    index,
    lanes,
    loop,
    product,
    sequence,
    static,
    unflatten,
    unrolled,
)
from edgevit.export.tvm.schedules.machine import Machine
from edgevit.export.tvm.schedules.stages import COMBINERS, Kernel, Stage, calls, replace_loads, substitute

PARTIAL = 4  # vectors of partial results in a reduction: hides the latency of an addition
WORK = 8  # an element counts as this many multiply-adds


def takes(kernel: Kernel) -> bool:
    """Whether every stage works on the same rows and reduces the last axis only."""
    reductions = [stage for stage in kernel.stages if stage.reduced]
    if not reductions:
        return False
    rows = [str(axis.extent) for axis in reductions[0].axes]
    for stage in kernel.stages:
        extents = [str(axis.extent) for axis in stage.axes]
        wide = len(extents) == len(rows) + 1
        if stage.reduced and (extents != rows or len(stage.reduced) != 1 or stage.reduced[0].size is None):
            return False
        if not stage.reduced and extents[: len(rows)] != rows and not wide:
            return False
        if not stage.reduced and (extents[: len(rows)] != rows or len(extents) > len(rows) + 1):
            return False
        if wide and stage.axes[-1].size is None:
            return False
    return True


def nest(kernel: Kernel, machine: Machine) -> Stmt:
    rows = next(stage for stage in kernel.stages if stage.reduced).axes
    extents = [axis.extent for axis in rows]

    def line(flat: Expr) -> Stmt:
        at = unflatten(flat, extents)
        known: dict[Any, Stage | Buffer] = {}
        return sequence(*[_stage(kernel, stage, at, known, machine) for stage in kernel.stages])

    widest = max(axis.size or 1 for stage in kernel.stages for axis in (*stage.axes[len(rows) :], *stage.reduced))
    count = static(product(extents))
    parallel = machine.parallel(None if count is None else count * widest * WORK) and count != 1
    return loop("row", product(extents), line, ForKind.PARALLEL if parallel else ForKind.SERIAL)


def _stage(kernel: Kernel, stage: Stage, at: Sequence[Expr], known: dict[Any, Any], machine: Machine) -> Stmt | None:
    """The statements of one stage of one row; remembers in ``known`` where its result is."""
    here = {axis.variable: each for axis, each in zip(stage.axes, at, strict=False)}
    value = _resolved(substitute(stage.value, here), known)
    last = stage is kernel.stages[-1]
    if stage.reduced:
        result = tirx.decl_buffer([index(1)], str(stage.buffer.dtype), f"{stage.buffer.name}_row", scope="local")
        known[stage.buffer] = result
        loops = sequence(AllocBuffer(result), _reduction(stage, value, result, machine))
        return (
            sequence(loops, BufferStore(stage.buffer, tirx.BufferLoad(result, [index(0)]), list(at))) if last else loops
        )
    if len(stage.axes) == len(at):
        if last:
            return BufferStore(stage.buffer, approximate(value), list(at))
        known[stage.buffer] = Stage(stage.buffer, (), value)
        return None
    column = stage.axes[-1]
    if last:
        body = approximate(value)
        return across(
            column.extent,
            machine,
            lambda each: BufferStore(stage.buffer, substitute(body, {column.variable: each}), [*at, each]),
        )
    if not calls(value):
        known[stage.buffer] = Stage(stage.buffer, (column,), value)
        return None
    scratch = tirx.decl_buffer([index(column.size or 1)], str(stage.buffer.dtype), f"{stage.buffer.name}_row")
    known[stage.buffer] = scratch
    body = approximate(value)
    fill = across(
        column.extent, machine, lambda each: BufferStore(scratch, substitute(body, {column.variable: each}), [each])
    )
    return sequence(AllocBuffer(scratch), fill)


def _resolved(value: Expr, known: Mapping[Any, Any]) -> Expr:
    """``value`` reading this row's results of earlier stages."""

    def answer(load: Any) -> Expr:
        found = known.get(load.source)
        if found is None:
            return load
        if isinstance(found, Stage):
            return found.at(load.indices[len(load.indices) - len(found.axes) :])
        return tirx.BufferLoad(found, [load.indices[-1] if int(found.shape[0]) > 1 else index(0)])

    return replace_loads(value, answer)


def _reduction(stage: Stage, value: Expr, result: Buffer, machine: Machine) -> Stmt:
    """Partial results in vectors, the columns that are left over one by one, and all of them combined."""
    axis, combine = stage.reduced[0], COMBINERS[stage.combiner]
    size = axis.size or 1
    value = approximate(value)
    width = vector_width(size, machine)
    chunk = width * min(PARTIAL, size // width)
    partial = tirx.decl_buffer([index(chunk)], str(result.dtype), "partial", scope="local")

    def at(column: Expr) -> Expr:
        return substitute(value, {axis.variable: column})

    def vectors(body: Any) -> Stmt:
        return unrolled(chunk // width, lambda vector: lanes(width, lambda lane: body(vector * width + lane)))

    def merge(buffer: Buffer, slot: Expr, operand: Expr) -> Stmt:
        return BufferStore(buffer, combine(tirx.BufferLoad(buffer, [index(slot)]), operand), [index(slot)])

    turns = size // chunk
    whole = loop("k", turns, lambda turn: vectors(lambda slot: merge(partial, slot, at(turn * chunk + slot))))
    rest = size - turns * chunk
    return sequence(
        AllocBuffer(partial),
        vectors(lambda slot: BufferStore(partial, stage.initial, [slot])),
        whole,
        BufferStore(result, stage.initial, [index(0)]),
        loop("rest", rest, lambda each: merge(result, index(0), at(turns * chunk + each))) if rest else None,
        unrolled(chunk, lambda slot: merge(result, index(0), tirx.BufferLoad(partial, [index(slot)]))),
    )
