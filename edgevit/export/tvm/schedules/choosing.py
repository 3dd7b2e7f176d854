"""How large the tile of a reduction is: the rule's choice from estimated cycles, and the others worth trying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgevit.export.tvm.schedules.elementwise import vector_width
from edgevit.export.tvm.schedules.loops import product
from edgevit.export.tvm.schedules.machine import Machine
from edgevit.export.tvm.schedules.shape import Shape
from edgevit.export.tvm.schedules.stages import Stage

# bytes of the row operand that a block may hold: a second-level cache has 256 KiB or more, and the panel and the
# results pass through it too
CACHED_ROWS = 192 << 10
KNOBS = frozenset({"rows", "vectors", "block", "unroll"})


@dataclass(frozen=True)
class Choice:
    """rows × (vectors × lanes) accumulators, rows in a block, unrolled reduction steps."""

    rows: int
    vectors: int
    block: int
    unroll: int
    lanes: int = 1

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def choices(shape: Shape, anchor: Stage, machine: Machine) -> dict[str, tuple[int, ...]]:
    """The tunables of a reduction, the rule's own choice first."""
    own = rule(shape, anchor, machine)
    width = own.lanes
    tiles = sorted(
        (
            (_cycles(shape, anchor, rows, vectors, width, machine), rows, vectors)
            for rows, vectors in _tiles(shape, width, machine)
        )
    )[:10]
    rows = tuple(dict.fromkeys([own.rows, *(each for _, each, _ in tiles)]))
    vectors = tuple(dict.fromkeys([own.vectors, *(each for _, _, each in tiles)]))
    found = {"rows": rows, "vectors": vectors}
    if shape.vector is not None:
        blocks = [own.block, *(size for size in (24, 48, 96, 192, 384) if own.rows < size < shape.row_count)]
        found["block"] = tuple(dict.fromkeys([*blocks, shape.row_count]))
    found["unroll"] = tuple(dict.fromkeys([own.unroll, 1, 2, 4, 8]))
    return found


def rule(shape: Shape, anchor: Stage, machine: Machine) -> Choice:
    """The rule's own choice: the tile with the fewest estimated cycles."""
    width = vector_width(shape.columns, machine)
    cost = lambda tile: _cycles(shape, anchor, tile[0], tile[1], width, machine)  # noqa: E731
    rows, vectors = min(_tiles(shape, width, machine), key=cost)
    return Choice(rows, vectors, _block(shape, anchor, rows), 1, width)


def chosen(shape: Shape, anchor: Stage, machine: Machine, given: Mapping[str, int] | None) -> Choice:
    """The rule's choice with ``given`` in place; ValueError for one that does not fit."""
    own = rule(shape, anchor, machine)
    if not given:
        return own
    if unknown := given.keys() - KNOBS:
        raise ValueError(f"no such knob: {', '.join(sorted(unknown))}")
    rows, vectors = given.get("rows", own.rows), given.get("vectors", own.vectors)
    if (rows, vectors) not in _tiles(shape, own.lanes, machine):
        raise ValueError(f"{rows} rows × {vectors} vectors do not fit the registers or the matrix")
    block = given.get("block", _block(shape, anchor, rows))
    unroll = given.get("unroll", own.unroll)
    if not rows <= block <= shape.row_count or unroll < 1:
        raise ValueError(f"block {block} or unroll {unroll} is impossible for {shape.row_count} rows")
    return Choice(rows, vectors, block, unroll, own.lanes)


def _tiles(shape: Shape, width: int, machine: Machine) -> list[tuple[int, int]]:
    room = machine.registers
    most = max(1, shape.columns // width)
    found = [
        (rows, vectors)
        for rows in range(1, min(shape.row_count, 14) + 1)  # what 16 registers hold beside one vector
        for vectors in range(1, min(8, most) + 1)
        # accumulators, a vector of the panel for each of their columns, and one value of a row in all lanes: one
        # register more, and the compiler would keep an accumulator in memory, stored and loaded in every step
        if rows * vectors + vectors + 1 <= room
    ]
    return found or [(1, 1)]


def _cycles(shape: Shape, anchor: Stage, rows: int, vectors: int, width: int, machine: Machine) -> float:
    """Estimated cycles of all tiles: two fused multiply-adds or two loads in a cycle, four cycles of latency."""
    steps = int(product([axis.size or 64 for axis in anchor.reduced]))
    # In a product each row's value serves all vectors, and each vector all rows. A depthwise window shares neither: a
    # load for every cell, and now and then one for its weights.
    reads = rows + vectors if shape.vector is not None else 1.5 * rows * vectors
    # The slowest of three: arithmetic; loads, a little over half a cycle each, as some straddle a cache line; and, with
    # fewer than 2 × 4 accumulators, waiting for the multiply-add of the step before.
    step = max(rows * vectors / 2, 0.55 * reads, 4 if rows * vectors < 8 else 0)
    # Whole tiles are counted, also the moved-back one: that is what a size that does not divide the axis costs.
    tiles = -(-shape.row_count // rows) * -(-shape.columns // (vectors * width))
    # beside the steps, each accumulator is set and stored, and a tile starts its loops: short reductions feel it
    return tiles * (steps * step + 2 * rows * vectors + 20)


def _block(shape: Shape, anchor: Stage, rows: int) -> int:
    """Rows of a block: as many as keep its part of the row operand in the second-level cache."""
    steps = int(product([axis.size or 64 for axis in anchor.reduced]))
    blocks = -(-shape.row_count * 4 * steps // CACHED_ROWS)  # then equal ones: a short last block leaves threads idle
    return min(shape.row_count, -(-shape.row_count // blocks // rows) * rows)
