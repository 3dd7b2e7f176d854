"""What is computed of places in a map, and of integers by way of real numbers: fp16 counts to 2048, and moves places.

At pixel 200 of a map fp16 knows eighths of a pixel. So whatever leads from the last layer with weights to the grid of a
sampled map, or to numbers that become integers, stays in float32, and so does the distance of a place to its pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from edgevit.export.legalise import arguments

aten = torch.ops.aten
WHY = "it computes places, which fp16 would move"

_SAMPLERS = (aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
_MOVES = frozenset({
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "clone",
    "contiguous", "alias", "slice", "select", "cat", "stack", "flatten", "unflatten", "repeat", "split",
    "split_with_sizes", "chunk", "unbind", "flip", "roll", "_to_copy",
})  # fmt: skip
_JUMPS = frozenset({"floor", "ceil", "round", "trunc", "frac"})


def exact_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The calls that stay in float32."""
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    found = {node for node in nodes if node.target in _SAMPLERS or _is_whole(node)}
    ahead = [root for node in nodes for root in _places(node)]
    while ahead:
        node = ahead.pop()
        if node not in found and _passes(node):
            found.add(node)
            ahead += node.all_input_nodes
    return found | _distances(nodes, found)


def _places(node: fx.Node) -> list[fx.Node]:
    """The inputs of a call that are places: a grid, and what becomes an integer."""
    if node.target in _SAMPLERS:
        return [arguments(node)["grid"]]
    if _is_integer(node) and _name(node) == "_to_copy":
        return [one for one in node.all_input_nodes if _is_real(one)]
    return []


def _distances(nodes: Iterable[fx.Node], exact: set[fx.Node]) -> set[fx.Node]:
    """What is computed of places and the pixels beside them alone."""
    found: set[fx.Node] = set()
    fixed: set[fx.Node] = set()  # of no input
    for node in nodes:
        if all(one in fixed for one in node.all_input_nodes):
            fixed.add(node)
        given = [
            one for one in node.all_input_nodes if one not in fixed and one.op == "call_function" and _is_real(one)
        ]
        jumps = node in exact and _name(node) in _JUMPS
        beside = any(one in found for one in given) or any(map(_is_integer, node.all_input_nodes))
        follows = beside and all(one in found or one in exact for one in given)
        if _is_real(node) and _passes(node) and (jumps or follows):
            found.add(node)
    return found


def _is_whole(node: fx.Node) -> bool:
    """Whether a call makes integers of integers, be it by way of real numbers."""
    given = [one for one in node.all_input_nodes if isinstance(one.meta.get("val"), torch.Tensor)]
    return _is_integer(node) and bool(given) and not any(map(_is_real, given))


def _passes(node: fx.Node) -> bool:
    """Whether a call works on each element alone, or moves elements."""
    if node.op != "call_function":
        return False
    return node.target is operator.getitem or _name(node) in _MOVES or torch.Tag.pointwise in _tags(node)


def _tags(node: fx.Node) -> Any:
    return getattr(node.target, "tags", ())


def _name(node: fx.Node) -> str:
    return str(getattr(getattr(node.target, "overloadpacket", None), "__name__", ""))


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_integer(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and value.dtype is not torch.bool
