"""A captured program in the integers of a plan: each layer one operator of ours, which TVM's importer reads by a rule.

Written out in PyTorch's own operators a layer would be a dozen calls that every pass would have to know again. Nothing
here imports TVM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.nn import functional

from edgevit.export.legalise import arguments, calls_of, decomposed
from edgevit.export.legalise.weights import Constants
from edgevit.quantize.plan import LEVELS, Grid, QuantPlan, Weight, bias_integers, sum_scales, weight_integers
from edgevit.quantize.sites import Site, sites_of

NOT_HERE = "TVM has no schedule for such a product of integers"


@torch.library.custom_op("edgevit::on_grid", mutates_args=())
def on_grid(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Float32 as the uint8 of a grid: divided, rounded half to even, clamped."""
    return (torch.round(x / scale) + zero_point).clamp(0, LEVELS).to(torch.uint8)


@torch.library.custom_op("edgevit::integer_linear", mutates_args=())
def integer_linear(x: Tensor, weight: Tensor, steps: Tensor, added: Tensor) -> Tensor:
    """(…, K) uint8 by (N, K) int8: ``(x · weightᵀ + added) · steps``, sums in int32.

    ``added`` (N,) int32 holds the bias and what the zero point makes of the weights; ``steps`` (N,) float32.
    """
    sums = functional.linear(x.double(), weight.double()) + added
    return sums.float() * steps


@torch.library.custom_op("edgevit::integer_conv2d", mutates_args=())
def integer_conv2d(
    x: Tensor,
    weight: Tensor,
    steps: Tensor,
    added: Tensor,
    zero_point: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """(B, C, H, W) uint8 by (O, C / groups, KH, KW) int8; ``padding`` is left, right, top, bottom."""
    padded = functional.pad(x.double(), padding, value=zero_point)
    sums = functional.conv2d(padded, weight.double(), None, stride, 0, dilation, groups)
    return (sums + added.view(-1, 1, 1)).float() * steps.view(-1, 1, 1)


@on_grid.register_fake
def _(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@integer_linear.register_fake
def _(x: Tensor, weight: Tensor, steps: Tensor, added: Tensor) -> Tensor:
    return steps.new_empty((*x.shape[:-1], weight.shape[0]))


@integer_conv2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    steps: Tensor,
    added: Tensor,
    zero_point: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    padded = functional.pad(x.to(steps.dtype), padding)
    return functional.conv2d(padded, weight.to(steps.dtype), None, stride, 0, dilation, groups)


ON_GRID = torch.ops.edgevit.on_grid.default
LINEAR, CONVOLUTION = torch.ops.edgevit.integer_linear.default, torch.ops.edgevit.integer_conv2d.default


def loaded(path: str) -> ExportedProgram:
    """A stored program, which may have layers of these operators."""
    return torch.export.load(path)


def in_integers(program: ExportedProgram, plan: QuantPlan) -> tuple[ExportedProgram, QuantPlan, int]:
    """A copy of ``program`` with the layers of ``plan`` in integers, the plan without those that TVM is not given in
    them, and how many operators there are."""
    program = decomposed(program, {})  # a copy, to be edited
    sites, nodes = sites_of(program), {node.name: node for node in calls_of(program)}
    here = [(nodes[site.node.name], site) for site in sites.taken if site.name in plan.layers]
    left = {site.name: NOT_HERE for node, site in here if _further(node) is None}
    plan = plan.without(left) if left else plan
    writing = _Writing(program, plan, sites.weights)
    for node, site in here:
        if site.name in plan.layers:
            writing.layer(node, site)
    writing.done()
    return program, plan, writing.operators


def _further(node: fx.Node) -> tuple[Any, ...] | None:
    """What an integer convolution is told beside its numbers, () for a product; None where we have neither."""
    x = node.args[1] if node.target is torch.ops.aten.addmm.default else node.args[0]
    if not isinstance(x, fx.Node) or x.meta["val"].ndim < 2:
        return None
    if node.target not in (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding):
        return () if "conv" not in str(node.target) else None
    if x.meta["val"].ndim != 4:
        return None
    given = arguments(node)
    sides = [int(one) for one in node.args[1].meta["val"].shape[2:]]  # type: ignore[union-attr]
    stride, dilation = _pair(given["stride"]), _pair(given["dilation"])
    return stride, _padding(given["padding"], sides, dilation), dilation, int(given["groups"])


def _pair(value: Any) -> list[int]:
    found = [int(one) for one in value]
    return found * 2 if len(found) == 1 else found


def _padding(given: Any, sides: list[int], dilation: list[int]) -> list[int]:
    """Left, right, top, bottom."""
    if given == "valid":
        return [0, 0, 0, 0]
    if given == "same":  # what is odd goes behind, as PyTorch has it
        whole = [step * (side - 1) for step, side in zip(dilation, sides, strict=True)]
        return [whole[1] // 2, whole[1] - whole[1] // 2, whole[0] // 2, whole[0] - whole[0] // 2]
    down, along = _pair(given)
    return [along, along, down, down]


class _Writing:
    """Edits a program in place."""

    def __init__(self, program: ExportedProgram, plan: QuantPlan, weights: Mapping[str, Weight]) -> None:
        self.program, self.plan, self.weights = program, plan, weights
        self.constants = Constants(program)
        self.known: dict[str, tuple[fx.Node, ...]] = {}
        self.grids: dict[tuple[Any, Grid], fx.Node] = {}
        self.replaced: list[fx.Node] = []
        self.operators = 0

    def layer(self, node: fx.Node, site: Site) -> None:
        x, stored = node.args[site.places[0]], node.args[site.places[1]]
        grid, further = self.plan.layers[site.name].input.grid(), _further(node)
        if further is None or not isinstance(stored, fx.Node):
            raise ValueError(f"{site.name} is no layer of integers")
        if site.name not in self.known:
            self.known[site.name] = self._constants(site.name, stored)
        given: tuple[Any, ...] = (self._on_grid(x, grid, node), *self.known[site.name])
        with self.program.graph.inserting_before(node):
            if site.kind == "conv":
                made = self.program.graph.call_function(CONVOLUTION, (*given, grid.zero_point, *further))
            else:
                made = self.program.graph.call_function(LINEAR, given)
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        for spec in self.program.graph_signature.output_specs:
            if spec.arg.name == node.name:
                spec.arg = TensorArgument(name=made.name)
        self.replaced += [one for one in node.all_input_nodes if one.op == "placeholder"]
        self.program.graph.erase_node(node)
        self.operators += 1

    def _on_grid(self, x: Any, grid: Grid, before: fx.Node) -> fx.Node:
        """``x`` in integers: once for all that read it on the same grid."""
        if (x, grid) not in self.grids:
            with self.program.graph.inserting_before(before):
                made = self.program.graph.call_function(ON_GRID, (x, grid.scale, grid.zero_point))
            made.meta = {**before.meta, "val": x.meta["val"].new_empty(x.meta["val"].shape, dtype=torch.uint8)}
            self.grids[x, grid] = made
        return self.grids[x, grid]

    def _constants(self, name: str, stored: fx.Node) -> tuple[fx.Node, ...]:
        """The integers of a weight, their steps, and what is added to their sums."""
        layer, weight = self.plan.layers[name], self.weights[name]
        integers = weight_integers(layer, weight.values)
        channels = integers.reshape(len(integers), -1).astype(np.int64).sum(axis=1)
        bias = np.zeros(len(integers), np.int64) if weight.bias is None else bias_integers(layer, weight.bias)
        added = bias - layer.input.grid().zero_point * channels
        values = {"int8": integers, "steps": sum_scales(layer), "added": added.astype(np.int32)}
        made = [self.constants.add(stored, f"{name}_{key}", torch.from_numpy(one)) for key, one in values.items()]
        return tuple(made)

    def done(self) -> None:
        inputs = {spec.arg.name for spec in self.constants.specs if spec.kind.name != "USER_INPUT"}
        self.constants.forget(one for one in dict.fromkeys(self.replaced) if one.name in inputs)
        self.program.graph_module.recompile()
