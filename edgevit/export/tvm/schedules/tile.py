"""Reductions across columns: matrix products, convolutions, depthwise convolutions, pooling.

    for outer, for block of rows, for panel of columns:        threads
        [pack the panel]
        for tile of rows in the block:
            acc[rows × vectors] = initial                      registers
            for k: acc += row operand × column operand
            output = epilogue(acc)

The last tile and the last panel are moved back so that they end at the edge: they compute some values a second time,
and nothing needs a branch or padding. A constant column operand is packed when the model is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, ForKind

from edgevit.export.tvm.schedules.choosing import Choice
from edgevit.export.tvm.schedules.epilogue import Epilogue, heavy
from edgevit.export.tvm.schedules.loops import (
    Buffer,
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
    unrolled,
)
from edgevit.export.tvm.schedules.machine import Machine
from edgevit.export.tvm.schedules.packing import Packing
from edgevit.export.tvm.schedules.shape import Shape, contiguous
from edgevit.export.tvm.schedules.stages import COMBINERS, Axis, Stage, replace_loads, substitute

UNROLLED_STEPS = 12  # reduction steps written out at most


@dataclass(frozen=True)
class Reduction:
    """Everything the loops of one reduction are written from."""

    anchor: Stage
    operand: Expr
    shape: Shape
    choice: Choice
    epilogue: Epilogue
    machine: Machine
    packed: Buffer = None
    packing: Packing | None = None


def nest(reduction: Reduction) -> Stmt:
    shape, choice = reduction.shape, reduction.choice
    panels = -(-shape.columns // choice.columns)
    resident = shape.vector is not None and reduction.packing is None and _worth_packing(reduction)
    block = shape.row_count if resident else choice.block
    blocks = -(-shape.row_count // (-(-block // choice.rows) * choice.rows))
    outer = [axis.extent for axis in shape.outer]
    total = product([*outer, blocks, panels])

    def task(flat: Expr) -> Stmt:
        *batch, at_block, panel = unflatten(flat, [*outer, blocks, panels])
        first = _start(panel, choice.columns, shape.columns)
        point = {axis.variable: at for axis, at in zip(shape.outer, batch, strict=True)}
        scratch = _scratch(reduction) if resident else None
        column = _column_operand(reduction, scratch, panel)
        tiles = _tiles_of_block(reduction, point, at_block, block, first, column)
        return (
            tiles if scratch is None else sequence(AllocBuffer(scratch), _pack(reduction, scratch, point, first), tiles)
        )

    work = static(
        product([shape.row_count, shape.columns, *outer, *(axis.extent for axis in reduction.anchor.reduced)])
    )
    many = static(total) is None or int(static(total) or 0) > 1
    return loop("task", total, task, ForKind.PARALLEL if many and reduction.machine.parallel(work) else ForKind.SERIAL)


def _worth_packing(reduction: Reduction) -> bool:
    """A column operand that is used for few rows, and lies in vectors already, is read where it is."""
    in_vectors = contiguous(reduction.shape.vector, reduction.shape.column.variable)
    return not in_vectors or reduction.shape.row_count > 3 * reduction.choice.rows


def _start(tile: Expr, size: int, whole: int) -> Expr:
    return minimum(tile * size, whole - size) if whole % size else tile * size


def _steps(reduction: Reduction) -> int:
    return int(product([axis.size or 1 for axis in reduction.anchor.reduced]))


def _scratch(reduction: Reduction) -> Buffer:
    shape = [index(_steps(reduction)), index(reduction.choice.columns)]
    return tirx.decl_buffer(shape, "float32", "panel")


def _flat_step(reduction: Reduction, at: Mapping[Any, Expr]) -> Expr:
    flat: Expr = index(0)
    for axis in reduction.anchor.reduced:
        flat = flat * (axis.size or 1) + at[axis.variable]
    return flat


def _column_operand(reduction: Reduction, scratch: Buffer, panel: Expr) -> Any:
    """(point, lane of the panel) -> the column operand there, from wherever it lies."""
    shape = reduction.shape
    if scratch is not None:
        return lambda at, lane: load_of(scratch, [_flat_step(reduction, at), lane])
    if reduction.packing is not None:
        load = shape.vector
        batch = [load.indices[axis] for axis in reduction.packing.order[: reduction.packing.batch]]

        def packed(at: Mapping[Any, Expr], lane: Expr) -> Expr:
            leading = [substitute(each, at) for each in batch]
            return load_of(reduction.packed, [*leading, panel, _flat_step(reduction, at), lane])

        return packed
    return None


def load_of(buffer: Buffer, indices: Sequence[Expr]) -> Expr:
    return tirx.BufferLoad(buffer, [index(each) for each in indices])


def _pack(reduction: Reduction, scratch: Buffer, point: Mapping[Any, Expr], first: Expr) -> Stmt:
    shape, anchor = reduction.shape, reduction.anchor

    def step(at: dict[Any, Expr]) -> Stmt:
        def one(lane: Expr) -> Stmt:
            value = substitute(shape.vector, {**point, **at, shape.column.variable: first + lane})
            return BufferStore(scratch, value, [_flat_step(reduction, at), lane])

        width = reduction.choice.lanes
        return unrolled(reduction.choice.vectors, lambda vector: lanes(width, lambda lane: one(lane + vector * width)))

    return _over(anchor.reduced, {}, step)


def _over(axes: Sequence[Axis], at: dict[Any, Expr], body: Any) -> Stmt:
    if not axes:
        return body(at)
    return loop("k", axes[0].extent, lambda step: _over(axes[1:], {**at, axes[0].variable: step}, body))


def _tiles_of_block(
    reduction: Reduction, point: Mapping[Any, Expr], at_block: Expr, block: int, first: Expr, column: Any
) -> Stmt:
    count, rows = reduction.shape.row_count, reduction.choice.rows
    tiles = -(-block // rows)
    even = count % (tiles * rows) == 0
    here = at_block * (tiles * rows)

    def tile(number: Expr) -> Stmt:
        start = here + number * rows
        return _tile(reduction, point, start if even else minimum(start, count - rows), first, column)

    if even or count <= tiles * rows:
        return loop("tile", tiles, tile)
    return loop("tile", tirx.min(index(tiles), tirx.floordiv(count - here + (rows - 1), index(rows))), tile)


def _tile(reduction: Reduction, point: Mapping[Any, Expr], start: Expr, first: Expr, column: Any) -> Stmt:
    shape, choice, anchor = reduction.shape, reduction.choice, reduction.anchor
    acc = tirx.decl_buffer([index(choice.rows * choice.columns)], str(anchor.buffer.dtype), "acc", scope="local")
    sizes = [axis.extent for axis in shape.rows]
    variables = [axis.variable for axis in shape.rows]
    rows = [dict(zip(variables, unflatten(start + row, sizes), strict=True)) for row in range(choice.rows)]

    def each(body: Any) -> Stmt:
        """``body(row, lane of the panel, slot of the accumulator)`` for the whole tile, written out."""
        return unrolled(
            choice.rows * choice.vectors,
            lambda cell: lanes(
                choice.lanes,
                lambda lane: body(
                    cell // choice.vectors,
                    lane + cell % choice.vectors * choice.lanes,
                    lane + cell * choice.lanes,
                ),
            ),
        )

    def update(at: dict[Any, Expr]) -> Stmt:
        def one(row: int, lane: Expr, slot: Expr) -> Stmt:
            here = {**point, **rows[row], **at, shape.column.variable: first + lane}
            if column is None:
                operand = substitute(reduction.operand, here)
            else:
                operand = substitute(shape.scalar, here) * column({**point, **at}, lane)
            return BufferStore(acc, COMBINERS[anchor.combiner](load_of(acc, [slot]), operand), [slot])

        return each(one)

    def finish() -> Stmt:
        def one(row: Any, lane: Expr, slot: Expr, source: Buffer) -> Stmt:
            where = (
                rows[row] if isinstance(row, int) else dict(zip(variables, unflatten(start + row, sizes), strict=True))
            )
            here = {**point, **where, shape.column.variable: first + lane}
            return _finished(reduction, here, load_of(source, [slot]))

        if not heavy(reduction.epilogue.value):
            return each(lambda row, lane, slot: one(row, lane, slot, acc))
        spill = tirx.decl_buffer([index(choice.rows * choice.columns)], str(anchor.buffer.dtype), "tile", scope="local")
        copy = each(lambda row, lane, slot: BufferStore(spill, load_of(acc, [slot]), [slot]))
        again = loop(
            "row",
            choice.rows,
            lambda row: loop(
                "v",
                choice.vectors,
                lambda v: lanes(
                    choice.lanes,
                    lambda lane: one(
                        row, v * choice.lanes + lane, row * choice.columns + v * choice.lanes + lane, spill
                    ),
                ),
            ),
        )
        return sequence(AllocBuffer(spill), copy, again)

    zero = each(lambda row, lane, slot: BufferStore(acc, anchor.initial, [slot]))
    return sequence(AllocBuffer(acc), zero, _reduce(anchor.reduced, choice.unroll, {}, update), finish())


def _reduce(axes: Sequence[Axis], unroll: int, at: dict[Any, Expr], update: Any) -> Stmt:
    """The reduction loops; short inner ones are written out, the innermost is unrolled by a divisor."""
    if not axes:
        return update(at)
    axis, rest = axes[0], axes[1:]
    inner = product([each.extent for each in axes])
    if static(inner) is not None and int(inner) <= UNROLLED_STEPS:
        return unrolled(int(axis.size or 1), lambda step: _reduce(rest, 1, {**at, axis.variable: index(step)}, update))
    if rest or unroll == 1 or axis.size is None or axis.size % unroll:
        return loop("k", axis.extent, lambda step: _reduce(rest, unroll, {**at, axis.variable: step}, update))
    return loop(
        "k",
        axis.size // unroll,
        lambda step: unrolled(unroll, lambda turn: update({**at, axis.variable: step * unroll + turn})),
    )


def _finished(reduction: Reduction, point: Mapping[Any, Expr], result: Expr) -> Stmt:
    epilogue = reduction.epilogue
    where = [substitute(each, point) for each in epilogue.indices]
    value = substitute(epilogue.value, dict(zip(epilogue.axes, where, strict=True)))
    return BufferStore(
        epilogue.buffer,
        replace_loads(value, lambda load: result if load.source.same_as(reduction.anchor.buffer) else load),
        where,
    )
