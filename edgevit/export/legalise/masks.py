"""``x[torch.where(mask)] = v`` as ``x[mask] = v``: how many places a mask has is then asked by nobody."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten
_PLACES = (aten.where.default, aten.nonzero_numpy.default)
_CHECKS = (aten._assert_scalar.default, aten.sym_constrain_range_for_size.default)


def without_places(program: ExportedProgram) -> ExportedProgram:
    """``program`` changed in place: what is written at all places of a mask is written by the mask."""
    found = {node: mask for node in _calls(program.graph) if (mask := _mask_of(node.args[1])) is not None}
    if found:
        for node, mask in found.items():
            node.args = (node.args[0], [mask], *node.args[2:])
        _sweep(program.graph)
        program.graph_module.recompile()
    return program


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target is aten.index_put.default]


def _mask_of(places: Any) -> fx.Node | None:
    """The mask that ``places`` are all the places of, axis by axis; None for others."""
    items = [each for each in places if isinstance(each, fx.Node) and each.target is operator.getitem]
    sources = {each.args[0] for each in items}
    if len(items) != len(places) or len(sources) != 1 or [each.args[1] for each in items] != list(range(len(items))):
        return None
    source: Any = next(iter(sources))
    if source.target not in _PLACES:
        return None
    mask: Any = source.args[0]
    value = mask.meta["val"]
    return mask if value.dtype is torch.bool and value.ndim == len(items) else None


def _sweep(graph: fx.Graph) -> None:
    """Without checks of how many places there are: a count that is read elsewhere keeps the places, and is refused."""
    for node in list(graph.nodes):
        if node.target in _CHECKS and _counts(node):
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _counts(node: fx.Node) -> bool:
    return node.target in _PLACES or any(_counts(each) for each in node.all_input_nodes)
