"""Tensors of more axes than a target can hold: the same numbers in fewer, wherever an operator allows it.

A tensor of many axes is kept as one of few axes with the same elements in the same order. A permutation is one of the
runs of axes that stay together, an operator along one axis needs three axes, and so on. Nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten
Way = Callable[["Folding", fx.Node], fx.Node | None]
WAYS: dict[Any, Way] = {}


def within_ranks(program: ExportedProgram, most: int) -> None:
    """Rewrite ``program`` in place: what is left of more than ``most`` axes has an operator that is not known here."""
    folding = Folding(program.graph, most)
    for node in list(program.graph.nodes):
        if node.op == "call_function" and folding.touches(node):
            if node.target is aten._assert_tensor_metadata.default:  # of what it would be said is no more
                program.graph.erase_node(node)
            else:
                folding.visit(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    name_outputs(program)


def name_outputs(program: ExportedProgram) -> None:
    """The signature of ``program`` after its outputs were given by other nodes."""
    (last,) = program.graph.find_nodes(op="output")
    for spec, node in zip(program.graph_signature.output_specs, last.args[0], strict=True):
        if isinstance(node, fx.Node):
            spec.arg.name = node.name


def axes_of(node: Any) -> int:
    """How many axes a node's tensor has, 0 of what is no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.ndim if isinstance(value, torch.Tensor) else 0


class Folding:
    """The tensors of many axes met so far, each with a node that has its elements in few."""

    def __init__(self, graph: fx.Graph, most: int) -> None:
        self.graph, self.most = graph, most
        self._low: dict[fx.Node, fx.Node] = {}
        self._at: fx.Node | None = None

    def touches(self, node: fx.Node) -> bool:
        return any(axes_of(one) > self.most for one in (node, *node.all_input_nodes))

    def visit(self, node: fx.Node) -> None:
        way = _pointwise if torch.Tag.pointwise in getattr(node.target, "tags", ()) else WAYS.get(node.target)
        if way is None:
            return
        self._at = node
        with self.graph.inserting_before(node):
            found = way(self, node)
            if found is not None:
                self.given(node, found)

    def given(self, node: fx.Node, found: fx.Node) -> None:
        """``found`` has the elements of ``node``."""
        if axes_of(node) > self.most:
            self._low[node] = found
        else:
            node.replace_all_uses_with(self.shaped(found, sizes_of(node)))

    def low(self, node: fx.Node) -> fx.Node:
        """A node of few axes with the elements of ``node``."""
        return self._low.get(node, node)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node in the place of the one that is visited."""
        made = self.graph.call_function(target, args, kwargs)
        made.meta = {name: value for name, value in self._at.meta.items() if name != "val"} if self._at else {}
        given, named = fx.node.map_arg((args, kwargs), lambda one: one.meta["val"])
        made.meta["val"] = target(*given, **named)
        return made

    def shaped(self, node: fx.Node, sizes: Sequence[Any]) -> fx.Node:
        """``node`` with ``sizes``, one of which may be a symbol."""
        if [str(size) for size in node.meta["val"].shape] == [str(size) for size in sizes]:
            return node
        return self.call(aten.reshape.default, node, [size if isinstance(size, int) else -1 for size in sizes])

    def grouped(self, node: fx.Node, cuts: Sequence[int]) -> fx.Node | None:
        """``node`` with its axes merged between ``cuts`` (0 and the number of its axes among them)."""
        sizes = [_product(sizes_of(node)[first:last]) for first, last in pairwise(cuts)]
        fits = len(sizes) <= self.most and sum(not isinstance(size, int) for size in sizes) <= 1
        return self.shaped(self.low(node), sizes) if fits else None

    def along(self, node: fx.Node, axis: int) -> fx.Node | None:
        """``node`` in three axes: those before ``axis``, itself, and those after it."""
        place = axis % axes_of(node)
        return self.grouped(node, (0, place, place + 1, axes_of(node)))


def sizes_of(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _product(sizes: Sequence[Any]) -> Any:
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else "?"


def way(*targets: Any) -> Callable[[Way], Way]:
    """Register how an operator is computed in fewer axes; ``None`` is answered where it cannot be."""

    def registered(function: Way) -> Way:
        WAYS.update(dict.fromkeys(targets, function))
        return function

    return registered


@way(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim,
     aten.squeeze.dims, aten.squeeze.default, aten.clone.default, aten.contiguous.default, aten.alias.default,
     aten.flatten.using_ints, aten.unflatten.int)  # fmt: skip
def _same(folding: Folding, node: fx.Node) -> fx.Node | None:
    """The same elements in the same order."""
    args: Any = node.args
    given = folding.low(args[0])
    if axes_of(given) <= folding.most:
        return given
    sizes = sizes_of(given)  # an input or a constant of many axes: the first ones are merged
    return folding.shaped(given, (_product(sizes[: 1 - folding.most]), *sizes[1 - folding.most :]))


@way(aten.permute.default, aten.transpose.int, aten.t.default)
def _permuted(folding: Folding, node: fx.Node) -> fx.Node | None:
    """The runs of axes that stay together, permuted."""
    args: Any = node.args
    given: Any = args[0]
    order = _order(node, axes_of(given))
    runs: list[list[int]] = []
    for axis in order:
        if runs and axis == runs[-1][-1] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    starts = sorted(run[0] for run in runs)
    merged = folding.grouped(given, (*starts, len(order)))
    if merged is None:
        return _moved(folding, given, order)
    return folding.call(aten.permute.default, merged, [starts.index(run[0]) for run in runs])


def _moved(folding: Folding, node: fx.Node, order: list[int]) -> fx.Node:
    """Axes moved to their places one after another, each over those that stand before it."""
    found, sizes, left = folding.low(node), list(sizes_of(node)), list(range(len(order)))
    for place, axis in enumerate(order):
        at = left.index(axis)
        if at != place:
            parts = (sizes[:place], sizes[place:at], sizes[at : at + 1], sizes[at + 1 :])
            split = folding.shaped(found, [_product(part) for part in parts])
            found = folding.call(aten.permute.default, split, [0, 2, 1, 3])
            left.insert(place, left.pop(at))
            sizes.insert(place, sizes.pop(at))
    return found


def _order(node: fx.Node, axes: int) -> list[int]:
    args: Any = node.args
    if node.target is aten.permute.default:
        return [axis % axes for axis in args[1]]
    order = list(range(axes))
    first, second = (axis % axes for axis in (args[1:3] or (0, 1)))
    order[first], order[second] = order[second], order[first]
    return order


def _pointwise(folding: Folding, node: fx.Node) -> fx.Node | None:
    """Axes merged where all operands have them whole, or all the same ones broadcast."""
    sizes = sizes_of(node)
    operands = [one for one in node.all_input_nodes if axes_of(one)]
    spread = [_spread(one, sizes) for one in operands]
    cuts = [
        0,
        *(axis for axis in range(1, len(sizes)) if any(one[axis] != one[axis - 1] for one in spread)),
        len(sizes),
    ]
    shapes: dict[fx.Node, fx.Node] = {}
    for one, flags in zip(operands, spread, strict=True):
        groups = [1 if flags[first] else _product(sizes[first:last]) for first, last in pairwise(cuts)]
        if len(groups) > folding.most or sum(not isinstance(size, int) for size in groups) > 1:
            return None
        shapes[one] = folding.shaped(folding.low(one), groups)
    given, named = fx.node.map_arg((node.args, dict(node.kwargs)), lambda one: shapes.get(one, one))
    return folding.call(node.target, *given, **named)


def _spread(node: fx.Node, sizes: Sequence[Any]) -> list[bool]:
    """By axis of the result, whether this operand is repeated along it."""
    own = [1] * (len(sizes) - axes_of(node)) + list(sizes_of(node))
    found: list[bool] = []
    for mine, size in zip(own, sizes, strict=True):  # an axis of one follows the axis before it, to be merged with it
        found.append(found[-1] if found and size == 1 else str(mine) != str(size))
    return found


way(aten._to_copy.default, aten.to.dtype, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)(_pointwise)


@way(aten.select.int, aten.slice.Tensor, aten.index_select.default, aten.softmax.int, aten._softmax.default,
     aten.log_softmax.int, aten.cumsum.default, aten.argmax.default)  # fmt: skip
def _along_one(folding: Folding, node: fx.Node) -> fx.Node | None:
    """The axis in the middle of three."""
    args: Any = node.args
    given, *rest = args
    if not rest or not isinstance(rest[0], int):
        return None
    merged = folding.along(given, rest[0])
    return merged and folding.call(node.target, merged, 1, *rest[1:], **node.kwargs)


@way(aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default)
def _reduced(folding: Folding, node: fx.Node) -> fx.Node | None:
    """Runs of axes that are reduced, and runs that are not."""
    args: Any = node.args
    given, dims = args[0], (*args, None)[1]
    if not dims:
        return None
    axes = axes_of(given)
    over = {axis % axes for axis in ([dims] if isinstance(dims, int) else dims)}
    cuts = [0, *(axis for axis in range(1, axes) if (axis in over) != (axis - 1 in over)), axes]
    named = {key: value for key, value in node.kwargs.items() if key != "keepdim"}
    found, sizes = folding.low(given), list(sizes_of(given))
    for first, last in reversed([pair for pair in pairwise(cuts) if pair[0] in over]):
        merged = folding.shaped(found, [_product(part) for part in (sizes[:first], sizes[first:last], sizes[last:])])
        found = folding.call(node.target, merged, [1], False, **named)
        del sizes[first:last]
    return found


@way(aten.index.Tensor)
def _picked(folding: Folding, node: fx.Node) -> fx.Node | None:
    """Rows of one axis."""
    given, places = node.args[:2]
    wanted: Any = [(axis, index) for axis, index in enumerate(places) if index is not None]  # type: ignore[arg-type]
    if len(wanted) != 1 or axes_of(wanted[0][1]) != 1 or wanted[0][1].meta["val"].dtype is torch.bool:
        return None
    merged = folding.along(given, wanted[0][0])  # type: ignore[arg-type]
    return merged and folding.call(aten.index_select.default, merged, 1, wanted[0][1])


@way(aten.cat.default)
def _joined(folding: Folding, node: fx.Node) -> fx.Node | None:
    args: Any = node.args
    parts, axis = [*args[0]], (*args, 0)[1]
    merged = [folding.along(part, axis) for part in parts]
    return None if None in merged else folding.call(aten.cat.default, merged, 1)


@way(aten.stack.default)
def _stacked(folding: Folding, node: fx.Node) -> fx.Node | None:
    args: Any = node.args
    parts, place = [*args[0]], int((*args, 0)[1]) % axes_of(node)
    merged = [folding.grouped(part, (0, place, axes_of(part))) for part in parts]
    return None if None in merged else folding.call(aten.stack.default, merged, 1)


@way(aten.expand.default)
def _expanded(folding: Folding, node: fx.Node) -> fx.Node | None:
    """Axes merged where all of them are repeated, or none."""
    args: Any = node.args
    given: Any = args[0]
    sizes, spread = sizes_of(node), _spread(given, sizes_of(node))
    cuts = [0, *(axis for axis in range(1, len(sizes)) if spread[axis] != spread[axis - 1]), len(sizes)]
    whole = [_product(sizes[first:last]) for first, last in pairwise(cuts)]
    own = [1 if spread[first] else size for first, size in zip(cuts[:-1], whole, strict=True)]
    if len(own) > folding.most or sum(not isinstance(size, int) for size in whole) > 1:
        return None
    wanted = [size if isinstance(size, int) else -1 for size in whole]
    if any(size == -1 and spread[first] for first, size in zip(cuts[:-1], wanted, strict=True)):
        return None
    return folding.call(aten.expand.default, folding.shaped(folding.low(given), own), wanted)


@way(aten.matmul.default, aten.bmm.default)
def _product_of_matrices(folding: Folding, node: fx.Node) -> fx.Node | None:
    """All axes before the last two as one, where both operands have the same."""
    args: Any = node.args
    left, right = args[:2]
    axes = axes_of(left)
    if axes != axes_of(right) or [str(size) for size in sizes_of(left)[:-2]] != [
        str(size) for size in sizes_of(right)[:-2]
    ]:
        return None
    merged = [folding.grouped(one, (0, axes - 2, axes - 1, axes)) for one in (left, right)]
    return None if None in merged else folding.call(aten.bmm.default, *merged)


@way(aten.linear.default)
def _linear(folding: Folding, node: fx.Node) -> fx.Node | None:
    """All axes before the last as one."""
    args: Any = node.args
    given, *weights = args
    merged = folding.grouped(given, (0, axes_of(given) - 1, axes_of(given)))
    return merged and folding.call(aten.linear.default, merged, *weights)


@way(aten.layer_norm.default)
def _normalised(folding: Folding, node: fx.Node) -> fx.Node | None:
    """All axes that are not normalised as one."""
    args: Any = node.args
    given, over, *rest = args
    axes, kept = axes_of(given), axes_of(given) - len(over)
    merged = folding.grouped(given, (0, *range(kept, axes + 1)))
    return merged and folding.call(aten.layer_norm.default, merged, over, *rest)


@way(aten.unbind.int)
def _unbound(folding: Folding, node: fx.Node) -> None:
    """Each part selected by itself."""
    args: Any = node.args
    merged = folding.along(args[0], (*args, 0)[1])
    for user in list(node.users) if merged else ():
        folding.given(user, folding.call(aten.select.int, merged, 1, user.args[1]))
