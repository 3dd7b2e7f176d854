"""Shapes that are computed in the graph although they are known: torch.onnx writes so when the batch is dynamic."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgevit.export.onnx.edit import constant_of, initializer, int_attribute, shape_of

Sides = list[int | str]


def resolve_shapes(model: ir.Model) -> None:
    """``Reshape(x, Concat(Slice(Shape(y)), …)) -> Reshape(x, constant)`` where at most one side is not known (-1).

    Shapes of values behind it are filled in, so that later rewrites see them.
    """
    vectors: dict[int, Sides] = {}
    for node in list(model.graph):
        if node.op_type == "Shape" and (shape := shape_of(node.inputs[0])) is not None and "None" not in shape:
            start = int_attribute(node, "start", 0)
            vectors[id(node.outputs[0])] = shape[start : int_attribute(node, "end", len(shape))]
        elif node.op_type == "Slice":
            _slice(node, vectors)
        elif node.op_type == "Concat":
            parts = [_vector(value, vectors) for value in node.inputs]
            if all(part is not None for part in parts):
                vectors[id(node.outputs[0])] = [side for part in parts for side in part or []]
        elif node.op_type == "Reshape":
            _reshape(model.graph, node, vectors)
        else:
            _fill_in(node)


def _vector(value: ir.Value | None, vectors: dict[int, Sides]) -> Sides | None:
    array = constant_of(value)
    if array is not None:
        return [int(side) for side in array] if array.ndim == 1 and array.dtype == np.int64 else None
    return vectors.get(id(value))


def _slice(node: ir.Node, vectors: dict[int, Sides]) -> None:
    whole = vectors.get(id(node.inputs[0]))
    ends = [constant_of(value) for value in node.inputs[1:3]]
    if whole is None or len(node.inputs) > 4 or any(array is None or array.size != 1 for array in ends):
        return
    start, end = (int(array.reshape(())) for array in ends if array is not None)
    vectors[id(node.outputs[0])] = whole[start:end]


def _reshape(graph: ir.Graph, node: ir.Node, vectors: dict[int, Sides]) -> None:
    source, target = shape_of(node.inputs[0]), _vector(node.inputs[1], vectors)
    if target is None or source is None or "None" in source or 0 in target:
        return
    free = [index for index, side in enumerate(target) if isinstance(side, str) or side == -1]
    if len(free) > 1:
        return
    if constant_of(node.inputs[1]) is None:
        sides = [side if isinstance(side, int) else -1 for side in target]
        node.replace_input_with(1, initializer(graph, "shape", np.array(sides, np.int64)))
    if "None" in (shape_of(node.outputs[0]) or ["None"]):
        node.outputs[0].shape = ir.Shape([_solved(side, source, target) for side in target])


def _solved(side: int | str, source: Sides, target: Sides) -> int | str:
    """What -1 stands for: a number, or a name for the batch times something."""
    if side != -1:
        return side
    symbols = [one for one in source if isinstance(one, str)]
    known = math.prod(one for one in source if isinstance(one, int))
    factor = known // math.prod(one for one in target if isinstance(one, int) and one != -1)
    if not symbols:
        return factor
    return symbols[0] if factor == 1 and len(symbols) == 1 else f"{'_'.join(symbols)}_by_{factor}"


def _fill_in(node: ir.Node) -> None:
    """Output shape of a node that torch.onnx left without one, for the few operators that stand behind such shapes."""
    if not node.outputs or "None" not in (shape_of(node.outputs[0]) or []):
        return
    first = shape_of(node.inputs[0])
    if first is None or "None" in first:
        return
    if node.op_type == "Transpose" and "perm" in node.attributes:
        node.outputs[0].shape = ir.Shape([first[axis] for axis in node.attributes["perm"].as_ints()])
    elif node.op_type in ("Softmax", "Mul") and (node.op_type == "Softmax" or _is_single(node.inputs[1])):
        node.outputs[0].shape = ir.Shape(first)
    elif node.op_type == "MatMul":
        second = shape_of(node.inputs[1])
        if second is not None and "None" not in second and len(second) == len(first):
            node.outputs[0].shape = ir.Shape([*first[:-1], second[-1]])


def _is_single(value: ir.Value | None) -> bool:
    array = constant_of(value)
    return array is not None and array.size == 1
