"""Ways in which a graph of integers can be wrong: each changes the graph of ``integer_models.Mixed`` in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

Sabotage = Callable[[ModelProto], None]


def constant(model: ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def changed(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = constant(model, name)
    array = np.asarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def node_at(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def layer(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if any(name in one.value for one in node.metadata_props))


def own(model: ModelProto, node: NodeProto, place: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Give one input of a pair another constant, of its own."""
    array = change(numpy_helper.to_array(constant(model, node.input[place])))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{node.name}_own_{place}"))
    node.input[place] = f"{node.name}_own_{place}"


def doubled_weight_scale(model: ModelProto) -> None:
    own(model, node_at(model, layer(model, "head.weight").input[1]), 1, lambda scales: scales * 2)


def doubled_input_scale(model: ModelProto) -> None:
    second = node_at(model, layer(model, "qkv.weight").input[0])
    for pair in (second, node_at(model, second.input[0])):
        own(model, pair, 1, lambda scale: scale * 2)


def zero_point_off_by_one_at_both_ends(model: ModelProto) -> None:
    second = node_at(model, layer(model, "qkv.weight").input[0])
    for pair in (second, node_at(model, second.input[0])):
        own(model, pair, 2, lambda zero: zero + zero.dtype.type(1))


def moved_axis(model: ModelProto) -> None:
    pair = node_at(model, layer(model, "shared.weight").input[1])  # (12, 12): either axis fits
    axis = next(one for one in pair.attribute if one.name == "axis")
    axis.i = 1 - axis.i


def dropped_input_pair(model: ModelProto) -> None:
    node = layer(model, "table")
    node.input[0] = node_at(model, node_at(model, node.input[0]).input[0]).input[0]


def dropped_output_pair(model: ModelProto) -> None:
    first = node_at(model, node_at(model, layer(model, "deep.weight").output[0]).output[0]).output[0]
    pair = next(node for node in model.graph.node if first in node.input and node.op_type == "QuantizeLinear")
    second = next(node for node in model.graph.node if pair.output[0] in node.input)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == second.output[0]:
                node.input[place] = first


def weights_of_another_layer(model: ModelProto) -> None:
    stored = node_at(model, layer(model, "wide.weight").input[1]).input[0]
    changed(model, stored, lambda array: np.random.default_rng(1).permutation(array.ravel()).reshape(array.shape))


def bias_of_another_layer(model: ModelProto) -> None:
    given = layer(model, "wide.weight").input[2]
    floats = any(tensor.name == given for tensor in model.graph.initializer)
    changed(model, given if floats else node_at(model, given).input[0], lambda array: array[::-1].copy())
