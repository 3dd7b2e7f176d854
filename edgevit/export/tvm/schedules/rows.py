"""Functions that reduce along rows and use the result for the same row: softmax, layer normalisation, a mean.

Every thread takes rows; each stage of a row is a loop of vectors over it, and what a later stage reads stays in the
first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, ForKind

from edgevit.export.tvm.schedules.approximate import approximate
from edgevit.export.tvm.schedules.elementwise import across, reads, vector_width
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
from edgevit.export.tvm.schedules.stages import COMBINERS, Axis, Kernel, Stage, calls, loads, replace_loads, substitute

PARTIAL = 4  # vectors of partial results in a reduction: an addition takes four cycles, and one may start in each
WORK = 8  # an element counts as this many multiply-adds: it is loaded and stored, and passes several stages


def takes(kernel: Kernel) -> bool:
    """Whether every stage works on the same rows, reads of them what earlier stages made for that row, and reduces the
    last axis only."""
    reductions = [stage for stage in kernel.stages if stage.reduced]
    if not reductions:
        return False
    rows = [str(axis.extent) for axis in reductions[0].axes]
    return all(_of_rows(stage, rows) and _aligned(stage, kernel, len(rows)) for stage in kernel.stages)


def _of_rows(stage: Stage, rows: Sequence[str]) -> bool:
    extents = [str(axis.extent) for axis in stage.axes]
    if stage.reduced:
        return extents == rows and len(stage.reduced) == 1 and stage.reduced[0].size is not None
    columns = stage.axes[len(rows) :]
    return extents[: len(rows)] == rows and len(columns) <= 1 and all(axis.size is not None for axis in columns)


def _aligned(stage: Stage, kernel: Kernel, rows: int) -> bool:
    """Whether it reads other stages at its own row: axes that are as long are not yet the same ones."""
    made = [other.buffer for other in kernel.stages]
    return all(
        axis.size == 1 or at.same_as(axis.variable)
        for load in loads(stage.value)
        if any(load.source.same_as(each) for each in made)
        for at, axis in zip(load.indices[:rows], stage.axes, strict=False)
    )


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
        return _reduced(stage, value, at if last else None, known, machine)
    column = stage.axes[-1] if len(stage.axes) > len(at) else None
    if last:
        return _result(stage, value, at, column, machine)
    if column is not None and calls(value):
        return _kept(stage, value, column, known, machine)
    # arithmetic is cheaper to repeat where it is read than to store and load
    known[stage.buffer] = Stage(stage.buffer, () if column is None else (column,), value)
    return None


def _reduced(stage: Stage, value: Expr, at: Sequence[Expr] | None, known: dict[Any, Any], machine: Machine) -> Stmt:
    """A reduction of the row into one number, stored ``at`` the row where it is the kernel's result."""
    result = tirx.decl_buffer([index(1)], str(stage.buffer.dtype), f"{stage.buffer.name}_row", scope="local")
    known[stage.buffer] = result
    loops = sequence(AllocBuffer(result), _reduction(stage, value, result, machine))
    if at is None:
        return loops
    return sequence(loops, BufferStore(stage.buffer, tirx.BufferLoad(result, [index(0)]), list(at)))


def _result(stage: Stage, value: Expr, at: Sequence[Expr], column: Axis | None, machine: Machine) -> Stmt:
    """The kernel's result for the row: one number, or one for each ``column``."""
    body = approximate(value)
    if column is None:
        return BufferStore(stage.buffer, body, list(at))
    return across(
        column.extent,
        machine,
        lambda each: BufferStore(stage.buffer, substitute(body, {column.variable: each}), [*at, each]),
        once=False,
    )


def _kept(stage: Stage, value: Expr, column: Axis, known: dict[Any, Any], machine: Machine) -> Stmt:
    """A stage that calls a function (softmax's exp) into memory of the row: it is read twice, and is dear."""
    scratch = tirx.decl_buffer([index(column.size or 1)], str(stage.buffer.dtype), f"{stage.buffer.name}_row")
    earlier = [each for each in known.values() if not isinstance(each, Stage) and int(each.shape[0]) > 1]
    known[stage.buffer] = scratch
    body = approximate(value)
    fill = across(
        column.extent,
        machine,
        lambda each: BufferStore(scratch, substitute(body, {column.variable: each}), [each]),
        once=reads(value, earlier),
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


@dataclass(frozen=True)
class _Partial:
    """Partial results of a row's reduction, in ``vectors`` of ``width``: each column belongs to one of them."""

    buffer: Buffer
    vectors: int
    width: int

    @property
    def chunk(self) -> int:
        return self.vectors * self.width

    def each(self, body: Callable[[Expr], Stmt]) -> Stmt:
        """``body(slot)`` for all of them, a vector at a time."""
        return unrolled(self.vectors, lambda vector: lanes(self.width, lambda lane: body(vector * self.width + lane)))

    def folded(self, merge: Callable[[Expr, Expr], Stmt]) -> list[Stmt]:
        """All of them into the first, half into half: one after another each would wait for the one before."""
        count, found = self.chunk, []
        while count > 1:
            half, odd = divmod(count, 2)
            if odd:
                found.append(merge(index(0), index(count - 1)))
            found += self._halved(half, merge)
            count = half
        return found

    def _halved(self, half: int, merge: Callable[[Expr, Expr], Stmt]) -> list[Stmt]:
        step = min(self.width, half) if half % self.width == 0 or half < self.width else 1

        def some(first: int) -> Stmt:
            return lanes(step, lambda lane: merge(lane + first, lane + (first + half)))

        return [some(first) for first in range(0, half, step)]


def _reduction(stage: Stage, value: Expr, result: Buffer, machine: Machine) -> Stmt:
    """Partial results in vectors, the columns that are left over one by one, and all of them combined.

    Many short sums are also closer to the true sum than one long one, which adds small numbers to a large one.
    """
    axis, combine = stage.reduced[0], COMBINERS[stage.combiner]
    value = approximate(value)
    partial = _partial(axis.size or 1, str(result.dtype), machine)

    def merge(buffer: Buffer, slot: Expr, operand: Expr) -> Stmt:
        return BufferStore(buffer, combine(tirx.BufferLoad(buffer, [index(slot)]), operand), [index(slot)])

    def column(buffer: Buffer, slot: Expr, at: Expr) -> Stmt:
        return merge(buffer, slot, substitute(value, {axis.variable: at}))

    turns, rest = divmod(axis.size or 1, partial.chunk)
    done = turns * partial.chunk
    return sequence(
        AllocBuffer(partial.buffer),
        partial.each(lambda slot: BufferStore(partial.buffer, stage.initial, [slot])),
        loop("k", turns, lambda turn: partial.each(lambda at: column(partial.buffer, at, turn * partial.chunk + at))),
        BufferStore(result, stage.initial, [index(0)]),
        loop("rest", rest, lambda each: column(result, index(0), done + each)) if rest else None,
        *partial.folded(lambda at, other: merge(partial.buffer, at, tirx.BufferLoad(partial.buffer, [index(other)]))),
        merge(result, index(0), tirx.BufferLoad(partial.buffer, [index(0)])),
    )


def _partial(size: int, dtype: str, machine: Machine) -> _Partial:
    width = vector_width(size, machine)
    vectors = min(PARTIAL, size // width)
    return _Partial(tirx.decl_buffer([index(vectors * width)], dtype, "partial", scope="local"), vectors, width)
