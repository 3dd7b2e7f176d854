"""``torch.cond`` without branches: both are computed, and one is chosen. A branch of a program changes nothing."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten
_COND = torch.ops.higher_order.cond


def without_branches(program: ExportedProgram) -> ExportedProgram:
    """``program`` changed in place."""
    _unfold(program.graph_module)
    return program


def _unfold(module: fx.GraphModule) -> None:
    conditions = [node for node in module.graph.nodes if node.target is _COND]
    for node in conditions:
        condition, yes, no, given = (*node.args, ())[:4]
        with module.graph.inserting_before(node):
            ways = [_called(module, way, given) for way in (yes, no)]
            found = [_chosen(module.graph, node, condition, *pair) for pair in zip(*ways, strict=True)]
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(found[user.args[1]])
                module.graph.erase_node(user)
    if conditions:
        module.graph.eliminate_dead_code()
        module.recompile()


def _called(module: fx.GraphModule, way: fx.Node, given: Any) -> list[fx.Node]:
    """What a branch makes of its inputs, written where it is called."""
    branch: Any = module.get_submodule(str(way.target))
    _unfold(branch)
    inputs = iter(given)
    own: dict[fx.Node, Any] = {}
    for node in branch.graph.nodes:
        if node.op == "output":
            break
        own[node] = next(inputs) if node.op == "placeholder" else module.graph.node_copy(node, own.__getitem__)
    (results,) = node.args
    return [own[one] for one in results]


def _chosen(graph: fx.Graph, node: fx.Node, condition: Any, yes: fx.Node, no: fx.Node) -> fx.Node:
    made = graph.call_function(aten.where.self, (condition, yes, no))
    made.meta = {**node.meta, "val": aten.where.self(*(one.meta["val"] for one in (condition, yes, no)))}
    return made
