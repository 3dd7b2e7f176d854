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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, ForKind

from edgevit.export.tvm.schedules import dots
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
from edgevit.export.tvm.schedules.shape import Shape, contiguous, uncast
from edgevit.export.tvm.schedules.stages import COMBINERS, Axis, Stage, replace_loads, substitute

UNROLLED_STEPS = (
    12  # reduction steps written out at most: a 3×3 window is nine, and a loop of nine costs more than it does
)

Point = Mapping[Any, Expr]  # an axis's variable -> where on it
Column = Callable[[Point, Expr], Expr]  # (point, lane of the panel) -> the column operand there
Cell = Callable[[int, Expr, Expr], Stmt]  # (row of the tile, lane of the panel, slot of the accumulators) -> what to do


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

    @property
    def dots(self) -> bool:
        """Whether a step multiplies and adds up several integers of 8 bits at once."""
        return self.packing is not None and self.packing.depth > 1

    @property
    def steps(self) -> int:
        """Steps of the whole reduction, written as one number."""
        return int(product([axis.size or 1 for axis in self.anchor.reduced]))

    @property
    def work(self) -> int | None:
        """Multiply-adds of the whole reduction, None where the batch is a symbol."""
        axes = [*self.shape.outer, *self.anchor.reduced]
        return static(product([self.shape.row_count, self.shape.columns, *(axis.extent for axis in axes)]))

    def step(self, at: Point) -> Expr:
        """Which of ``steps`` the reduced axes are at."""
        flat: Expr = index(0)
        for axis in self.anchor.reduced:
            flat = flat * (axis.size or 1) + at[axis.variable]
        return flat

    def local(self, name: str) -> Buffer:
        """An array of one value for every cell of a tile, private to the thread."""
        size = self.choice.rows * self.choice.columns
        return tirx.decl_buffer([index(size)], str(self.anchor.buffer.dtype), name, scope="local")


@dataclass(frozen=True)
class Panel:
    """The columns that one task computes, for one block of rows.

    point   the position on the batch axes
    first   its first column
    column  the packed column operand, None where it is read from where it lies
    """

    reduction: Reduction
    point: Point
    first: Expr
    column: Column | None

    def at(self, lane: Expr) -> dict[Any, Expr]:
        return {**self.point, self.reduction.shape.column.variable: self.first + lane}


@dataclass(frozen=True)
class Tile:
    """Some rows of one panel: what is held in registers through the reduction.

    start  its first row
    rows   position of each of its rows, on the axes that the rows are made of
    """

    panel: Panel
    start: Expr
    rows: tuple[Point, ...]

    @property
    def reduction(self) -> Reduction:
        return self.panel.reduction


def nest(reduction: Reduction) -> Stmt:
    """The loops of the whole reduction.

    A task is one panel for one block of rows. The panel is read again for every tile of the block and stays in the
    cache meanwhile; the panels of a block follow each other, so that its rows are still there for the next one.
    """
    shape, choice = reduction.shape, reduction.choice
    panels = -(-shape.columns // choice.columns)
    resident = shape.vector is not None and reduction.packing is None and _worth_packing(reduction)
    # a panel packed in the task is packed again for every block: so there is one block
    block = shape.row_count if resident else choice.block
    tiles = -(-block // choice.rows)
    blocks = -(-shape.row_count // (tiles * choice.rows))
    extents = [*(axis.extent for axis in shape.outer), blocks, panels]

    def task(flat: Expr) -> Stmt:
        *batch, at_block, panel = unflatten(flat, extents)
        point = {axis.variable: at for axis, at in zip(shape.outer, batch, strict=True)}
        return _task(reduction, point, panel, resident, lambda made: _tiles_of_block(made, at_block, tiles))

    total = product(extents)
    parallel = static(total) != 1 and reduction.machine.parallel(reduction.work)
    return loop("task", total, task, ForKind.PARALLEL if parallel else ForKind.SERIAL)


def _worth_packing(reduction: Reduction) -> bool:
    """A column operand that is used for few rows, and lies in vectors already, is read where it is."""
    in_vectors = contiguous(reduction.shape.vector, reduction.shape.column.variable)
    # packing reads and writes the panel once: three tiles of rows, each of which reads it once, do not repay that
    return not in_vectors or reduction.shape.row_count > 3 * reduction.choice.rows


def _task(reduction: Reduction, point: Point, panel: Expr, resident: bool, tiles: Callable[[Panel], Stmt]) -> Stmt:
    """One panel: packed first where it is ``resident``, then the ``tiles`` that read it."""
    first = _start(panel, reduction.choice.columns, reduction.shape.columns)
    if not resident:
        return tiles(Panel(reduction, point, first, _constant_column(reduction, panel)))
    dtype = str(reduction.anchor.buffer.dtype)
    scratch = tirx.decl_buffer([index(reduction.steps), index(reduction.choice.columns)], dtype, "panel")
    made = Panel(reduction, point, first, lambda at, lane: load_of(scratch, [reduction.step(at), lane]))
    return sequence(AllocBuffer(scratch), _pack(made, scratch), tiles(made))


def _start(tile: Expr, size: int, whole: int) -> Expr:
    """Where a tile of ``size`` begins on an axis: the last one is moved back until it ends with the axis.

    What it computes a second time has the same bits (every value sums its steps in order, whatever the tile), so it
    does not matter which thread stores it last.
    """
    return minimum(tile * size, whole - size) if whole % size else tile * size


def _constant_column(reduction: Reduction, panel: Expr) -> Column | None:
    """How a column operand that was packed with the model is read; None where it was not."""
    if reduction.packing is None:
        return None
    load, dtype = uncast(reduction.shape.vector), str(reduction.anchor.buffer.dtype)
    batch = [load.indices[axis] for axis in reduction.packing.order[: reduction.packing.batch]]

    def packed(at: Point, lane: Expr) -> Expr:
        leading = [substitute(each, at) for each in batch]
        found = load_of(reduction.packed, [*leading, panel, reduction.step(at), lane])
        return found if reduction.dots or load is reduction.shape.vector else tirx.Cast(dtype, found)

    return packed


def load_of(buffer: Buffer, indices: Sequence[Expr]) -> Expr:
    return tirx.BufferLoad(buffer, [index(each) for each in indices])


def _pack(panel: Panel, scratch: Buffer) -> Stmt:
    """The panel in the order in which a tile reads it, step by step: every load is then the next vector in memory."""
    reduction, width = panel.reduction, panel.reduction.choice.lanes

    def step(at: Point) -> Stmt:
        def one(lane: Expr) -> Stmt:
            value = substitute(reduction.shape.vector, {**at, **panel.at(lane)})
            return BufferStore(scratch, value, [reduction.step(at), lane])

        return unrolled(reduction.choice.vectors, lambda vector: lanes(width, lambda lane: one(lane + vector * width)))

    return _over(reduction.anchor.reduced, {}, step)


def _over(axes: Sequence[Axis], at: Point, body: Callable[[Point], Stmt]) -> Stmt:
    if not axes:
        return body(at)
    return loop("k", axes[0].extent, lambda step: _over(axes[1:], {**at, axes[0].variable: step}, body))


def _tiles_of_block(panel: Panel, at_block: Expr, tiles: int) -> Stmt:
    count, rows = panel.reduction.shape.row_count, panel.reduction.choice.rows
    even = count % (tiles * rows) == 0
    here = at_block * (tiles * rows)

    def tile(number: Expr) -> Stmt:
        start = here + number * rows
        return _tile(panel, start if even else minimum(start, count - rows))

    if even or count <= tiles * rows:
        return loop("tile", tiles, tile)
    # the last of several blocks is shorter: tiles beyond the end would all be the moved-back one
    return loop("tile", tirx.min(index(tiles), tirx.floordiv(count - here + (rows - 1), index(rows))), tile)


def _tile(panel: Panel, start: Expr) -> Stmt:
    """Accumulators set, the reduction, and the epilogue of what it leaves in them.

    The accumulators are an array on the stack that the compiler moves to registers, which it does only where every
    index into it is a constant: so all that touches them is written out, never a loop over rows or vectors.
    """
    reduction = panel.reduction
    anchor, choice = reduction.anchor, reduction.choice
    tile = Tile(panel, start, tuple(_row(reduction, start + row) for row in range(choice.rows)))
    acc = reduction.local("acc")
    return sequence(
        AllocBuffer(acc),
        _cells(choice, lambda row, lane, slot: BufferStore(acc, anchor.initial, [slot])),
        _reduce(anchor.reduced, choice.unroll, {}, lambda at: _update(tile, acc, at)),
        _spilled(tile, acc) if heavy(reduction.epilogue.value) else _stored(tile, acc),
    )


def _row(reduction: Reduction, flat: Expr) -> Point:
    """Position of row ``flat`` on the axes that the rows are made of (a convolution's: height and width)."""
    axes = reduction.shape.rows
    place = unflatten(flat, [axis.extent for axis in axes])
    return dict(zip((axis.variable for axis in axes), place, strict=True))


def _cells(choice: Choice, body: Cell) -> Stmt:
    """``body`` for the whole tile, written out; a row's vectors lie beside each other in the accumulators."""

    def vector(cell: int) -> Stmt:
        row, at = divmod(cell, choice.vectors)
        return lanes(choice.lanes, lambda lane: body(row, lane + at * choice.lanes, lane + cell * choice.lanes))

    return unrolled(choice.rows * choice.vectors, vector)


def _update(tile: Tile, acc: Buffer, at: Point) -> Stmt:
    """One step ``at`` of the reduction for every cell.

    Each cell has an accumulator of its own, so that the multiply-adds of a step do not wait for each other; the
    compiler loads a row's value once for its vectors, and a vector of the panel once for all rows.
    """
    anchor, column = tile.reduction.anchor, tile.panel.column
    if tile.reduction.dots:
        return _dots(tile, acc, at)

    def one(row: int, lane: Expr, slot: Expr) -> Stmt:
        here = {**tile.rows[row], **at, **tile.panel.at(lane)}
        if column is None:
            operand = substitute(tile.reduction.operand, here)
        else:
            operand = substitute(tile.reduction.shape.scalar, here) * column({**tile.panel.point, **at}, lane)
        return BufferStore(acc, COMBINERS[anchor.combiner](load_of(acc, [slot]), operand), [slot])

    return _cells(tile.reduction.choice, one)


def _dots(tile: Tile, acc: Buffer, at: Point) -> Stmt:
    """The same, four steps at once."""
    reduction, column = tile.reduction, tile.panel.column
    choice, last, load = reduction.choice, reduction.anchor.reduced[-1].variable, uncast(reduction.shape.scalar)
    if column is None:
        raise ValueError("integers are read from packed panels")
    here = {**tile.panel.point, **at}

    def row(number: int) -> Expr:
        return dots.four_of(load, last, {**here, **tile.rows[number]})

    def vector(number: int) -> Expr:
        first, count = number * choice.lanes * dots.DEPTH, choice.lanes * dots.DEPTH
        return column(here, tirx.Ramp(index(first), index(1), count))

    return dots.update(choice, row, vector, acc)


def _stored(tile: Tile, acc: Buffer) -> Stmt:
    """A light epilogue, straight from the registers."""

    def one(row: int, lane: Expr, slot: Expr) -> Stmt:
        return _finished(tile.reduction, {**tile.rows[row], **tile.panel.at(lane)}, load_of(acc, [slot]))

    return _cells(tile.reduction.choice, one)


def _spilled(tile: Tile, acc: Buffer) -> Stmt:
    """A heavy epilogue (GELU's erf), in a loop over a copy of the tile in memory.

    Written out for every vector it would be thousands of instructions. The loop needs the copy: an index that varies
    would put the accumulators themselves into memory, for the whole reduction.
    """
    reduction, choice = tile.reduction, tile.reduction.choice
    spill = reduction.local("tile")

    def one(row: Expr, at: Expr, lane: Expr) -> Stmt:
        here = {**_row(reduction, tile.start + row), **tile.panel.at(at + lane)}
        return _finished(reduction, here, load_of(spill, [row * choice.columns + at + lane]))

    def vectors(row: Expr) -> Stmt:
        return loop("v", choice.vectors, lambda v: lanes(choice.lanes, lambda lane: one(row, v * choice.lanes, lane)))

    copy = _cells(choice, lambda row, lane, slot: BufferStore(spill, load_of(acc, [slot]), [slot]))
    return sequence(AllocBuffer(spill), copy, loop("row", choice.rows, vectors))


def _reduce(axes: Sequence[Axis], unroll: int, at: Point, update: Callable[[Point], Stmt]) -> Stmt:
    """The reduction loops; short inner ones are written out, the innermost is unrolled by a divisor."""
    if not axes:
        return update(at)
    axis, rest = axes[0], axes[1:]
    inner = product([each.extent for each in axes])
    if static(inner) is not None and int(inner) <= UNROLLED_STEPS:
        return unrolled(int(axis.size or 1), lambda step: _reduce(rest, 1, {**at, axis.variable: index(step)}, update))
    # only by a divisor: steps left over would need the body a second time
    if rest or unroll == 1 or axis.size is None or axis.size % unroll:
        return loop("k", axis.extent, lambda step: _reduce(rest, unroll, {**at, axis.variable: step}, update))
    return loop(
        "k",
        axis.size // unroll,
        lambda step: unrolled(unroll, lambda turn: update({**at, axis.variable: step * unroll + turn})),
    )


def _finished(reduction: Reduction, point: Point, result: Expr) -> Stmt:
    """The epilogue at one point of the reduction, with ``result`` where it reads the reduction's."""
    epilogue = reduction.epilogue
    where = [substitute(each, point) for each in epilogue.indices]
    value = substitute(epilogue.value, dict(zip(epilogue.axes, where, strict=True)))
    return BufferStore(
        epilogue.buffer,
        replace_loads(value, lambda load: result if load.source.same_as(reduction.anchor.buffer) else load),
        where,
    )
