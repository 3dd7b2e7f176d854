"""Attention as engines like it: separate projections, plain four-dimensional operands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgevit.export.onnx.edit import Array, constant_of, initializer, new_node, producer, replace, shape_of, sole_user


def separate_qkv(model: ir.Model) -> None:
    """``Transpose(Reshape(Add(MatMul(x, W), b), (B, N, 3, H, D)), (2, 0, 3, 1, 4))[i]`` for i in 0, 1, 2
    -> ``Transpose(Reshape(Add(MatMul(x, W[:, i]), b[i]), (B, N, H, D)), (0, 2, 1, 3))``.

    Three products write Q, K and V where they are needed; one wide product has to be taken apart again by copies.
    Where the input is no linear layer with constant weights, one four-dimensional transpose is split instead.
    """
    for node in list(model.graph):
        reshape = producer(node.inputs[0], "Reshape") if node.op_type == "Transpose" and node.inputs else None
        shape = shape_of(node.inputs[0]) if reshape is not None else None
        if reshape is None or shape is None or len(shape) != 5 or _perm(node) != [2, 0, 3, 1, 4]:
            continue
        parts = _parts_on_first_axis(node)
        if parts is None or not all(isinstance(side, int) for side in shape[1:]):
            continue
        tokens, count, heads, width = (side if isinstance(side, int) else 0 for side in shape[1:])
        if any(not 0 <= index < count for index in parts):
            continue
        group = _Parts(node, reshape, shape[0], tokens, count, heads, width, parts)
        linear = _linear(reshape.inputs[0])
        if linear is not None and linear.weight.shape[1] == group.count * group.heads * group.width:
            group.from_linear(model.graph, linear)
        else:
            group.from_split(model.graph)


def _perm(node: ir.Node) -> list[int]:
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else []


def _parts_on_first_axis(transpose: ir.Node) -> dict[int, list[ir.Value]] | None:
    """Index -> values that are ``transpose``'s output at that index of axis 0; None if it is read otherwise."""
    parts: dict[int, list[ir.Value]] = {}
    for use in transpose.outputs[0].uses():
        found = _one_index(use.node)
        if found is None:
            return None
        parts.setdefault(found[0], []).append(found[1])
    return parts if parts and not transpose.outputs[0].is_graph_output() else None


def _one_index(node: ir.Node) -> tuple[int, ir.Value] | None:
    if (node.op_type == "Gather" and node.attributes.get("axis", None) is None) or node.op_type == "Gather":
        index = constant_of(node.inputs[1])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        return (int(index), node.outputs[0]) if index is not None and index.ndim == 0 and axis == 0 else None
    squeeze = sole_user(node.outputs[0]) if node.op_type == "Slice" else None
    if squeeze is None or squeeze.op_type != "Squeeze" or len(node.inputs) < 4:
        return None
    start, end, axes = (constant_of(value) for value in node.inputs[1:4])
    squeezed = constant_of(squeeze.inputs[1]) if len(squeeze.inputs) > 1 else None
    if start is None or end is None or axes is None or squeezed is None:
        return None
    ones = [array.reshape(-1).tolist() for array in (start, end, axes, squeezed)]
    if any(len(one) != 1 for one in ones) or ones[1][0] != ones[0][0] + 1 or ones[2] != [0] or ones[3] != [0]:
        return None
    return int(ones[0][0]), squeeze.outputs[0]


@dataclass(frozen=True)
class _Linear:
    """``Add(MatMul(x, weight), bias)`` with constant weight (C, C') and bias (C',), or no bias."""

    x: ir.Value
    weight: Array
    bias: Array | None
    node: ir.Node


def _linear(value: ir.Value | None) -> _Linear | None:
    """The linear layer that makes ``value`` and nothing else reads, or None."""
    node = value.producer() if value is not None else None
    if node is None or value is None or sole_user(value) is None:
        return None
    if node.op_type == "MatMul":
        return _product(node, None)
    if node.op_type != "Add":
        return None
    for product, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        bias, made = constant_of(other), producer(product, "MatMul")
        if bias is not None and bias.ndim == 1 and made is not None and sole_user(made.outputs[0]) is node:
            return _product(made, bias)
    return None


def _product(node: ir.Node, bias: Array | None) -> _Linear | None:
    x, weight = node.inputs[0], constant_of(node.inputs[1])
    if x is None or weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[1:]):
        return None
    return _Linear(x, weight, bias, node)


@dataclass(frozen=True)
class _Parts:
    """A transposed (batch, tokens, count, heads, width) reshape and the values that are its parts."""

    transpose: ir.Node
    reshape: ir.Node
    batch: int | str
    tokens: int
    count: int
    heads: int
    width: int
    values: dict[int, list[ir.Value]]

    def from_linear(self, graph: ir.Graph, linear: _Linear) -> None:
        """One linear layer per part."""
        size = self.heads * self.width
        flat: list[int | str] = [self.batch, self.tokens, size]
        target = np.array([-1, self.tokens, self.heads, self.width], np.int64)
        for index, olds in sorted(self.values.items()):
            cut = slice(index * size, (index + 1) * size)
            name = f"{linear.node.inputs[1].name if linear.node.inputs[1] else 'qkv'}_{index}"
            at = self.transpose
            y = new_node(at, "MatMul", [linear.x, initializer(graph, name, linear.weight[:, cut])], flat)
            own = [y.producer()]
            if linear.bias is not None:
                y = new_node(at, "Add", [y, initializer(graph, f"{name}_bias", linear.bias[cut])], flat)
                own.append(y.producer())
            for made in own:
                if made is not None:
                    made.metadata_props.update(linear.node.metadata_props)
            split = new_node(
                at,
                "Reshape",
                [y, initializer(graph, "heads_shape", target)],
                [self.batch, self.tokens, self.heads, self.width],
            )
            turned = new_node(
                at, "Transpose", [split], [self.batch, self.heads, self.tokens, self.width], perm=[0, 2, 1, 3]
            )
            for old in olds:
                replace(old, turned)

    def from_split(self, graph: ir.Graph) -> None:
        """One transpose for all parts, which then lie one behind the other."""
        joined: list[int | str] = [self.batch, self.tokens, self.count * self.heads, self.width]
        target = initializer(graph, "qkv_shape", np.array([-1, *joined[1:]], np.int64))
        flat = new_node(self.transpose, "Reshape", [self.reshape.inputs[0], target], joined)
        turned = new_node(
            self.transpose, "Transpose", [flat], [joined[0], joined[2], joined[1], joined[3]], perm=[0, 2, 1, 3]
        )
        split = ir.node(
            "Split",
            [turned],
            {"axis": 1, "num_outputs": self.count},
            num_outputs=self.count,
            metadata_props=dict(self.transpose.metadata_props),
        )
        graph.insert_before(self.transpose, split)
        for index, out in enumerate(split.outputs):
            out.dtype, out.shape = turned.dtype, ir.Shape([self.batch, self.heads, self.tokens, self.width])
            for old in self.values.get(index, []):
                replace(old, out)


def plain_batched_transpose(model: ir.Model) -> None:
    """``Reshape(Transpose(Reshape(x, (-1, N, D)), (0, 2, 1)), (B, H, D, N)) -> Transpose(x, (0, 1, 3, 2))``.

    torch.onnx writes Kᵀ of attention so; without the reshapes an engine can fold the transpose into the product.
    """
    for node in list(model.graph):
        if node.op_type != "Reshape":
            continue
        transpose = producer(node.inputs[0], "Transpose")
        inner = producer(transpose.inputs[0], "Reshape") if transpose is not None else None
        if transpose is None or inner is None or _perm(transpose) != [0, 2, 1]:
            continue
        before, after = shape_of(inner.inputs[0]), shape_of(node.outputs[0])
        flat = shape_of(inner.outputs[0])
        if before is None or after is None or flat is None or len(before) != 4 or len(after) != 4 or len(flat) != 3:
            continue
        if before[:2] == after[:2] and before[2:] == after[:1:-1] and flat[1:] == before[2:]:
            replace(node.outputs[0], new_node(node, "Transpose", [inner.inputs[0]], after, perm=[0, 1, 3, 2]))
