"""Attention as engines like it: one transpose for Q, K and V together, plain four-dimensional operands."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgevit.export.onnx.edit import constant_of, initializer, new_node, producer, replace, shape_of, sole_user


def split_qkv_once(model: ir.Model) -> None:
    """``Squeeze(Slice(Transpose(Reshape(x, (B, N, 3, H, D)), (2, 0, 3, 1, 4)), i))`` for i in 0, 1, 2
    -> ``Split(Transpose(Reshape(x, (B, N, 3H, D)), (0, 2, 1, 3)), axis=1)[i]``.

    One four-dimensional transpose whose parts lie together in memory, instead of a five-dimensional one that engines
    take apart into three.
    """
    for node in list(model.graph):
        reshape = producer(node.inputs[0], "Reshape") if node.op_type == "Transpose" and node.inputs else None
        shape = shape_of(node.inputs[0]) if reshape is not None else None
        if reshape is None or shape is None or len(shape) != 5 or list(_perm(node)) != [2, 0, 3, 1, 4]:
            continue
        parts = _parts_on_first_axis(node)
        if parts is None or not all(isinstance(side, int) for side in shape[1:]):
            continue
        _replace_parts(model.graph, node, reshape, shape, parts)


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


def _replace_parts(
    graph: ir.Graph, transpose: ir.Node, reshape: ir.Node, shape: list[int | str], parts: dict[int, list[ir.Value]]
) -> None:
    batch, tokens, count, heads, width = shape
    if not isinstance(count, int) or not isinstance(heads, int) or any(not 0 <= index < count for index in parts):
        return
    target = initializer(graph, "qkv_shape", np.array([-1, tokens, count * heads, width], np.int64))
    joined = new_node(transpose, "Reshape", [reshape.inputs[0], target], [batch, tokens, count * heads, width])
    turned = new_node(transpose, "Transpose", [joined], [batch, count * heads, tokens, width], perm=[0, 2, 1, 3])
    split = ir.node(
        "Split",
        [turned],
        {"axis": 1, "num_outputs": count},
        num_outputs=count,
        metadata_props=dict(transpose.metadata_props),
    )
    graph.insert_before(transpose, split)
    for index, out in enumerate(split.outputs):
        out.dtype, out.shape = turned.dtype, ir.Shape([batch, heads, tokens, width])
        for old in parts.get(index, []):
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
