"""Token streams in two dimensions: linear layers as Gemm, and no reshapes between them."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgevit.export.onnx.edit import constant_of, initializer, int_attribute, new_node, replace, shape_of, sole_user

_ELEMENTWISE = frozenset({"Gelu", "Relu", "Erf", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Mish", "Sqrt", "Neg"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


def flatten_tokens(model: ir.Model) -> None:
    """``Add(MatMul(x, W), b)`` on (B, …, C) -> ``Reshape(Gemm(Reshape(x, (-1, C)), W, b), (-1, …, C'))``.

    LayerNormalization over the last axis, elementwise operators and residual sums between such layers follow into the
    flat form, so that the reshapes in between have no reader left. Engines turn a biased MatMul into a Gemm between
    two reshapes anyway; here a whole transformer block needs them only around attention.
    """
    flat = _Flat(model.graph)
    for node in list(model.graph):
        if node.domain != "" or len(node.outputs) != 1 or not _tokens(shape_of(node.outputs[0])):
            continue
        if node.op_type == "MatMul":
            flat.linear(node)
        elif node.op_type in _ELEMENTWISE or (node.op_type == "LayerNormalization" and _last_axis(node)):
            flat.follow(node, [node.inputs[0]])
        elif node.op_type in _BINARY:
            flat.binary(node)


def _tokens(shape: list[int | str] | None) -> bool:
    """(B, N, …, C) with everything but the batch known, three axes or more."""
    return shape is not None and len(shape) >= 3 and all(isinstance(side, int) for side in shape[1:])


def _last_axis(node: ir.Node) -> bool:
    shape = shape_of(node.inputs[0])
    axis = int_attribute(node, "axis", -1)
    return len(node.outputs) == 1 and shape is not None and axis in (-1, len(shape) - 1)


class _Flat:
    """The (rows, C) form of values, where one exists."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.known: dict[int, ir.Value] = {}

    def of(self, value: ir.Value, user: ir.Node) -> ir.Value:
        """``value`` as (rows, C): the known form, or a new Reshape before ``user``."""
        if id(value) not in self.known:
            shape = shape_of(value) or []
            target = initializer(self.graph, "flat_shape", np.array([-1, shape[-1]], np.int64))
            self.known[id(value)] = new_node(user, "Reshape", [value, target], _flat_shape(shape))
            self.known[id(value)].dtype = value.dtype
        return self.known[id(value)]

    def linear(self, node: ir.Node) -> None:
        weight = constant_of(node.inputs[1])
        x = node.inputs[0]
        if x is None or weight is None or weight.ndim != 2 or not _tokens(shape_of(x)):
            return
        add = sole_user(node.outputs[0])
        bias = _bias_of(add, node.outputs[0], weight.shape[1])
        last = add if add is not None and bias is not None else node
        inputs = [self.of(x, last), node.inputs[1], *([bias] if bias is not None else [])]
        self.finish(last, new_node(last, "Gemm", inputs, _flat_shape(shape_of(node.outputs[0]) or [])), like=node)

    def follow(self, node: ir.Node, moving: list[ir.Value | None]) -> None:
        """Compute ``node`` on the flat forms of ``moving`` if any of them has one."""
        if not any(id(value) in self.known for value in moving):
            return
        inputs = [self.of(value, node) if value in moving and value is not None else value for value in node.inputs]
        out = new_node(node, node.op_type, inputs, _flat_shape(shape_of(node.outputs[0]) or []))
        made = out.producer()
        if made is not None:
            made.attributes.update({name: found for name, found in node.attributes.items() if name != "axis"})
        self.finish(node, out, like=node)

    def binary(self, node: ir.Node) -> None:
        shape = shape_of(node.outputs[0]) or []
        moving: list[ir.Value | None] = []
        for value in node.inputs:
            sides = shape_of(value)
            if sides == shape and (value is None or not value.is_initializer()):
                moving.append(value)
            elif constant_of(value) is None or not _only_last(sides):
                return
        self.follow(node, moving)

    def finish(self, old: ir.Node, flat: ir.Value, *, like: ir.Node) -> None:
        """Hand ``flat`` on in the old shape; readers that can be flat themselves will pass the Reshape by."""
        made = flat.producer()
        if made is not None:
            made.metadata_props.update(like.metadata_props)
        shape = shape_of(old.outputs[0]) or []
        target = initializer(self.graph, "token_shape", np.array([-1, *shape[1:]], np.int64))
        restored = new_node(old, "Reshape", [flat, target], shape)
        replace(old.outputs[0], restored)
        self.known[id(restored)] = flat


def _flat_shape(shape: list[int | str]) -> list[int | str]:
    rows: int | str = math.prod(shape[:-1]) if isinstance(shape[0], int) else f"{shape[0]}_tokens"
    return [rows, shape[-1]]


def _bias_of(add: ir.Node | None, product: ir.Value, width: int) -> ir.Value | None:
    """The constant (width,) that ``add`` adds to ``product``."""
    if add is None or add.op_type != "Add":
        return None
    other = add.inputs[1] if add.inputs[0] is product else add.inputs[0]
    array = constant_of(other)
    return other if array is not None and array.shape == (width,) else None


def _only_last(shape: list[int | str] | None) -> bool:
    return shape is not None and len(shape) <= 1
