"""Small questions and steps on an ``onnx_ir`` graph that the passes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]


def constant_of(value: ir.Value | None) -> Array | None:
    """The data of an initializer, or None."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    array: Array = value.const_value.numpy()
    return array


def scalar_of(value: ir.Value | None) -> float | None:
    """The number in a float initializer of one element, or None."""
    if value is None or value.dtype != ir.DataType.FLOAT or value.shape is None or not value.is_initializer():
        return None
    if any(side != 1 for side in value.shape):
        return None
    array = constant_of(value)
    return None if array is None else float(array.reshape(()))


def copied(model: ir.Model) -> ir.Model:
    """A copy to edit. onnx_ir's own shares the types of values with its original, and they are changed in place."""
    copy = model.clone()
    for node in copy.graph.all_nodes():
        for value in node.outputs:
            if isinstance(value.type, ir.TensorType):
                value.type = ir.TensorType(value.type.dtype)
    return copy


def shape_of(value: ir.Value | None) -> list[int | str] | None:
    """Sides of a value, symbols as their names; None when unknown."""
    if value is None or value.shape is None:
        return None
    return [side if isinstance(side, int) else str(side) for side in value.shape]


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only node that reads ``value``, or None when there are several or it is an output of the graph."""
    users = {id(use.node): use.node for use in value.uses()}
    return next(iter(users.values())) if len(users) == 1 and not value.is_graph_output() else None


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes ``value`` if it is of ``op_type``."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer of the graph, its name made unique."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(np.array(array, order="C"), name=unique)  # ascontiguousarray would make a scalar 1-D
    value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def new_node(
    like: ir.Node, op_type: str, inputs: list[ir.Value | None], shape: list[int | str] | None, **attributes: Any
) -> ir.Value:
    """Insert a node of one output before ``like``, from the same PyTorch module; its output, typed and shaped."""
    node = ir.node(op_type, inputs, attributes, metadata_props=dict(like.metadata_props))
    out = node.outputs[0]
    out.dtype = like.outputs[0].dtype
    out.shape = None if shape is None else ir.Shape(shape)
    if not isinstance(like.graph, ir.Graph):
        raise ValueError(f"{like.name} is in no graph")
    like.graph.insert_before(like, node)
    return out


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of ``old`` read ``new``, which also takes its place (and name) as an output of the graph."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_old", old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
