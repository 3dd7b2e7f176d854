"""The few pieces of TIR that generated kernels are made of, in short words. Every index is int64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import For, ForKind, SeqStmt

Expr = Any  # a TIR expression, or a Python number where TIR takes one
Stmt = Any
Buffer = Any

INDEX = "int64"


def index(value: int | Expr) -> Expr:
    """A number as an index expression; an expression stays."""
    return tirx.const(value, INDEX) if isinstance(value, int) else value


def static(extent: int | Expr) -> int | None:
    """The value of a constant extent, None for a symbolic one."""
    if isinstance(extent, int):
        return extent
    return int(extent.value) if isinstance(extent, tirx.IntImm) else None


def sequence(*statements: Stmt | None) -> Stmt:
    found = [each for each in statements if each is not None]
    return found[0] if len(found) == 1 else SeqStmt(found)


def loop(name: str, extent: int | Expr, body: Callable[[Expr], Stmt], kind: ForKind = ForKind.SERIAL) -> Stmt:
    """``for name in range(extent)``; a single turn is no loop at all, but for vector lanes and threads."""
    if static(extent) == 1 and kind == ForKind.SERIAL:
        return body(index(0))
    variable = tirx.Var(name, INDEX)
    return For(variable, index(0), index(extent), kind, body(variable))


def unrolled(extent: int, body: Callable[[int], Stmt]) -> Stmt:
    """The body for 0, 1, … written out."""
    return sequence(*[body(turn) for turn in range(extent)])


def lanes(width: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """One vector operation over ``width`` lanes."""
    return loop("lane", width, body, ForKind.VECTORIZED) if width > 1 else body(index(0))


def minimum(first: Expr, second: int | Expr) -> Expr:
    return tirx.min(first, index(second))


def product(extents: Sequence[int | Expr]) -> int | Expr:
    found: int | Expr = 1
    for extent in extents:
        number = static(extent)
        found = found * (extent if number is None else number)
    return found


def unflatten(flat: Expr, extents: Sequence[int | Expr]) -> list[Expr]:
    """The index tuple of position ``flat`` in row-major order."""
    found: list[Expr] = []
    for extent in reversed(extents[1:]):
        number = static(extent)
        if number == 1:
            found.append(index(0))
            continue
        found.append(tirx.floormod(flat, index(extent)))
        flat = tirx.floordiv(flat, index(extent))
    return [flat, *reversed(found)] if extents else []
