"""A product with a stack of constant matrices as a product with each: engines have integers of two axes only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from edgevit.export.legalise import calls_of, decomposed
from edgevit.export.legalise.weights import Constants

_aten = torch.ops.aten
_PRODUCTS = (_aten.matmul.default, _aten.bmm.default)
MOST = 32  # products for one: of more, each is too small to be worth its call


@dataclass(frozen=True)
class _Stack:
    """``axis`` of the matrices, counted from the end; ``count`` of them."""

    axis: int
    count: int


def unstacked(program: ExportedProgram) -> ExportedProgram:
    """``x @ W`` with W of (G, K, N) as ``stack(x_g @ W_g)``, every W_g a weight of its own; the same program where
    there is no such product. Nothing is rounded."""
    if not any(_stack_of(program, node) for node in calls_of(program)):
        return program
    program = decomposed(program, {})  # a copy, to be edited
    _Unstacking(program).run()
    return program


def _stack_of(program: ExportedProgram, node: fx.Node) -> _Stack | None:
    """How the constant that a product is with is stacked, None for what is no such product."""
    if node.target not in _PRODUCTS or _parameter(program, node.args[1]) is None:
        return None
    x, sides = node.args[0].meta["val"].shape, node.args[1].meta["val"].shape  # type: ignore[union-attr]
    stacks = [place for place, side in enumerate(sides[:-2]) if side != 1]
    if len(stacks) != 1 or not len(x) >= 2 or (len(x) < len(sides) and len(sides) > 3):
        return None
    axis, count = stacks[0] - len(sides), int(math.prod(sides[:-2]))
    known = len(x) < -axis or x[axis] in (1, count)
    return _Stack(axis, count) if known and count <= MOST else None


def _parameter(program: ExportedProgram, node: object) -> str | None:
    """Name of the weight that a placeholder stands for."""
    if not isinstance(node, fx.Node) or node.op != "placeholder":
        return None
    signature = program.graph_signature
    name = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.get(node.name)
    return name if name in program.state_dict else None


def _call(like: fx.Node, target: Any, *arguments: Any) -> fx.Node:
    """A call with what is known of the node that it takes part in."""
    made = like.graph.call_function(target, arguments)
    values = fx.node.map_arg(arguments, lambda one: one.meta["val"])
    made.meta = {**like.meta, "val": target(*values)}
    return made


class _Unstacking:
    """Edits a program in place.

    made  stack of weights -> a weight for each of its matrices: two products may share it
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.program, self.graph, self.constants = program, program.graph, Constants(program)
        self.made: dict[fx.Node, list[fx.Node]] = {}

    def run(self) -> None:
        for node in calls_of(self.program):
            if (stack := _stack_of(self.program, node)) is not None:
                self.split(node, stack)
        self.constants.forget(self.made)
        self.program.graph_module.recompile()

    def split(self, node: fx.Node, stack: _Stack) -> None:
        x: Any = node.args[0]
        weights, sides = self.weights(node.args[1], stack.count), x.meta["val"].shape  # type: ignore[arg-type]
        with self.graph.inserting_before(node):
            products = []
            for place, weight in enumerate(weights):
                of = x
                if len(sides) >= -stack.axis:
                    of = _call(node, _aten.select.int, x, stack.axis, place if sides[stack.axis] != 1 else 0)
                products.append(_call(node, _aten.matmul.default, of, weight))
            found = _call(node, _aten.stack.default, products, stack.axis)
        node.replace_all_uses_with(found)
        self.graph.erase_node(node)

    def weights(self, stored: fx.Node, count: int) -> list[fx.Node]:
        if stored not in self.made:
            name, value = str(_parameter(self.program, stored)), stored.meta["val"]
            matrices = self.constants.values[name].detach().reshape(count, *value.shape[-2:])
            self.made[stored] = [
                self.constants.add(stored, f"{name}_{place}", matrix) for place, matrix in enumerate(matrices)
            ]
        return self.made[stored]
