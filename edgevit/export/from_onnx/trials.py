"""Copies of a graph that compute on purpose a little wrongly: what that does to the answers is noise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgevit.export.onnx.edit import Array, constant_of, copied
from edgevit.export.onnx.graph import module_of
from edgevit.export.onnx.half import FLOAT32_ONLY_INPUTS

# What only moves values: nothing is computed, so nothing is rounded.
_VIEWS = frozenset(
    {
        *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Slice", "Split", "Concat"),
        *("Gather", "GatherElements", "GatherND", "Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Constant", "Where"),
        *("ConstantOfShape", "MaxPool", "Relu", "Neg", "Abs", "Max", "Min", "Clip"),
    }
)
UNIT = 2.0**-23  # the last place of float32


def jittered(model: ir.Model) -> ir.Model:
    """A copy whose operators' results are each moved by up to a unit in the last place of float32, at random."""
    copy = copied(model)
    for seed, (node, value) in enumerate(_results(copy)):
        about_one = ir.node(
            "RandomUniformLike", [value], {"low": 1 - UNIT, "high": 1 + UNIT, "seed": float(seed), "dtype": 1}
        )
        _behind(copy.graph, node, value, [about_one, ir.node("Mul", [value, about_one.outputs[0]])])
    return copy


def rounded(model: ir.Model, keep: Collection[str], to: Literal["float16", "bfloat16"]) -> ir.Model:
    """A copy in which every operator's result and every weight is rounded to a type, but inside the modules ``keep``.

    As an engine with that storage and float32 accumulation computes. A normalisation or softmax that is computed in
    float32 still hands its result on through a cast.
    """
    copy = copied(model)
    seen: dict[int, ir.Value] = {}
    for node, value in _results(copy, keep):
        half = ir.node("Cast", [value], {"to": ir.DataType[to.upper()].value})
        _behind(copy.graph, node, value, [half, ir.node("Cast", [half.outputs[0]], {"to": ir.DataType.FLOAT.value})])
        half.outputs[0].dtype = ir.DataType[to.upper()]
    for node in copy.graph:
        if module_of(node) not in keep and node.op_type != "Cast":
            _round_weights(copy.graph, node, seen, to)
    return copy


def watched(model: ir.Model) -> tuple[ir.Model, dict[str, list[ir.Node]]]:
    """A copy that gives every float value as an output, and for each of them the node that makes it and its readers."""
    copy = copied(model)
    nodes: dict[str, list[ir.Node]] = {}
    for value in copy.graph.inputs:
        nodes[str(value.name)] = [use.node for use in value.uses()]
    copy.graph.outputs.clear()
    for node, value in _results(copy, views=True):
        nodes[str(value.name)] = [node, *(use.node for use in value.uses())]
        copy.graph.outputs.append(value)
    return copy, nodes


def _results(model: ir.Model, keep: Collection[str] = (), *, views: bool = False) -> list[tuple[ir.Node, ir.Value]]:
    """Every float32 result of the main graph's nodes that are not in ``keep``."""
    return [
        (node, value)
        for node in model.graph
        if module_of(node) not in keep and (views or node.op_type not in _VIEWS)
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
    ]


def _behind(graph: ir.Graph, node: ir.Node, value: ir.Value, steps: list[ir.Node]) -> None:
    """Put ``steps`` between a value and its readers; the last of them takes its place as an output of the graph."""
    last = steps[-1].outputs[0]
    for number, step in enumerate(steps):
        (out,) = step.outputs
        out.name, out.shape, out.dtype = f"{value.name}_{step.op_type}_{number}", value.shape, value.dtype
    inside = {id(step) for step in steps}
    for use in list(value.uses()):
        if id(use.node) not in inside:
            use.node.replace_input_with(use.idx, last)
    graph.insert_after(node, steps)
    for index, output in enumerate(graph.outputs):
        if output is value:
            value.name, last.name = f"{value.name}_exact", value.name
            graph.outputs[index] = last


def _round_weights(graph: ir.Graph, node: ir.Node, seen: dict[int, ir.Value], to: str) -> None:
    for index, value in enumerate(node.inputs):
        array = constant_of(value)
        if value is None or array is None or value.dtype != ir.DataType.FLOAT:
            continue
        if index in FLOAT32_ONLY_INPUTS.get(node.op_type, ()):
            continue
        if id(value) not in seen:
            seen[id(value)] = _constant(graph, f"{value.name}_rounded", array, ir.DataType[to.upper()].numpy())
        node.replace_input_with(index, seen[id(value)])


def _constant(graph: ir.Graph, name: str, array: Array, dtype: Any) -> ir.Value:
    with np.errstate(over="ignore"):
        near = array.astype(dtype).astype(np.float32)
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(near, name=name),
    )
    graph.register_initializer(value)
    return value
