"""A PrimFunc as the list of its stages: what each computes, over which axes, without loops.

Functions that come from tensor expressions (also fused ones) are nests of perfect loops around blocks that store one
value each; anything else is not read here, and scheduled by the generic rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call, TensorLoad, Var

from edgevit.export.tvm.schedules.loops import Buffer, Expr, static

CONSTANTS = "edgevit.constants"  # attribute of a function: the parameters that are constants wherever it is called
COMBINERS: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "sum": lambda first, second: first + second,
    "max": tirx.max,
    "min": tirx.min,
}


@dataclass(frozen=True)
class Axis:
    """One axis of a stage: its variable, and its extent, a number or a symbolic expression."""

    variable: Any
    extent: Any

    @property
    def size(self) -> int | None:
        return static(self.extent)


@dataclass(frozen=True)
class Stage:
    """``buffer[axes] = value``, or its ``combiner`` over the ``reduced`` axes starting from ``initial``."""

    buffer: Buffer
    axes: tuple[Axis, ...]
    value: Expr
    reduced: tuple[Axis, ...] = ()
    combiner: str = ""
    initial: Expr = None

    def at(self, indices: Sequence[Expr]) -> Expr:
        """The value at ``indices`` (of an elementwise stage)."""
        return substitute(self.value, {axis.variable: at for axis, at in zip(self.axes, indices, strict=True)})


@dataclass(frozen=True)
class Kernel:
    """A function's parameters (the last one is its result) and its stages in order."""

    function: Any
    parameters: tuple[Buffer, ...]
    stages: tuple[Stage, ...]
    constants: frozenset[int]

    @property
    def results(self) -> int:
        """How many parameters the function writes."""
        return sum(any(stage.buffer.same_as(each) for stage in self.stages) for each in self.parameters)


def read(function: Any) -> Kernel | None:
    """The stages of ``function``; None when it is not of this form."""
    body = function.body
    if not isinstance(body, s_tir.SBlockRealize) or any(not hasattr(each, "shape") for each in function.params):
        return None
    nests = body.block.body
    stages = [_stage(nest) for nest in (nests.seq if isinstance(nests, tirx.SeqStmt) else [nests])]
    found = tuple(stage for stage in stages if stage is not None)
    if len(found) != len(stages) or not found[-1].buffer.same_as(function.params[-1]):
        return None
    marked = function.attrs[CONSTANTS] if function.attrs and CONSTANTS in function.attrs else []
    return Kernel(function, tuple(function.params), found, frozenset(int(each) for each in marked))


def _stage(nest: Any) -> Stage | None:
    while isinstance(nest, tirx.For):
        nest = nest.body
    if not isinstance(nest, s_tir.SBlockRealize):
        return None
    block = nest.block
    store = block.body
    if not isinstance(store, tirx.BufferStore):
        return None
    spatial = tuple(Axis(each.var, each.dom.extent) for each in block.iter_vars if each.iter_type == 0)
    reduced = tuple(Axis(each.var, each.dom.extent) for each in block.iter_vars if each.iter_type == 2)
    if len(spatial) + len(reduced) != len(block.iter_vars) or len(spatial) != len(store.indices):
        return None
    if any(not at.same_as(axis.variable) for at, axis in zip(store.indices, spatial, strict=True)):
        return None
    if not reduced:
        return Stage(store.buffer, spatial, store.value)
    return _reduction(store, block.init, spatial, reduced)


def _reduction(store: Any, init: Any, spatial: tuple[Axis, ...], reduced: tuple[Axis, ...]) -> Stage | None:
    kind = {"Add": "sum", "Max": "max", "Min": "min"}.get(type(store.value).__name__)
    if kind is None or not isinstance(init, tirx.BufferStore):
        return None
    first, second = store.value.a, store.value.b  # TVM simplifies sums, and may put the operand first
    if not (isinstance(first, TensorLoad) and first.source.same_as(store.buffer)):
        first, second = second, first
    if not (isinstance(first, TensorLoad) and first.source.same_as(store.buffer)):
        return None
    return Stage(store.buffer, spatial, second, reduced, kind, init.value)


def substitute(expression: Expr, values: Mapping[Any, Expr]) -> Expr:
    """``expression`` with variables replaced."""
    if not values:
        return expression
    return tvm_ffi.structural_map(expression, (Var, lambda variable: values.get(variable, variable)))


def replace_loads(expression: Expr, replacement: Callable[[Any], Expr]) -> Expr:
    """``expression`` with every buffer load replaced, innermost first."""
    return tvm_ffi.structural_map(expression, (TensorLoad, replacement))


def nodes(expression: Expr, kind: type) -> list[Any]:
    """All nodes of a class in an expression, one entry for each occurrence."""
    found: list[Any] = []

    def seen(node: Any) -> None:
        found.append(node)

    tvm_ffi.structural_walk(expression, (kind, seen))
    return found


def loads(expression: Expr) -> list[Any]:
    return nodes(expression, TensorLoad)


def uses(expression: Expr, variable: Any) -> bool:
    return any(each.same_as(variable) for each in nodes(expression, Var))


def calls(expression: Expr) -> set[str]:
    """Names of the intrinsics in an expression."""
    return {str(each.op.name) for each in nodes(expression, Call)}


def inlined(expression: Expr, producers: Mapping[Any, Stage]) -> Expr:
    """``expression`` with every load of a buffer among ``producers`` (elementwise stages) replaced by what it holds."""
    if not producers:
        return expression

    def answer(load: Any) -> Expr:
        stage = producers.get(load.source)
        return load if stage is None else inlined(stage.at(load.indices), producers)

    return replace_loads(expression, answer)
