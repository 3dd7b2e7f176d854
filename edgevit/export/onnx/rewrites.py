"""edgevit's own graph rewrites, in the order they are applied. Each is one function; its docstring is the equation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgevit.export.onnx.attention import plain_batched_transpose, separate_qkv
from edgevit.export.onnx.edit import constant_of, initializer, new_node, producer, replace, shape_of
from edgevit.export.onnx.selection import pick_token_early
from edgevit.export.onnx.shapes import resolve_shapes
from edgevit.export.onnx.tokens import flatten_tokens

Rewrite = Callable[[ir.Model], None]


def merge_reshapes(model: ir.Model) -> None:
    """``Reshape(Reshape(x, s), t) -> Reshape(x, t')`` and ``Reshape(x, shape of x) -> x``."""
    for node in list(model.graph):
        if node.op_type != "Reshape" or (shape := shape_of(node.outputs[0])) is None:
            continue
        inner = producer(node.inputs[0], "Reshape")
        source = inner.inputs[0] if inner is not None else node.inputs[0]
        if source is None or sum(isinstance(side, str) for side in shape) > 1:
            continue
        if shape_of(source) == shape and not (source.is_graph_input() and node.outputs[0].is_graph_output()):
            replace(node.outputs[0], source)
        elif inner is not None and all(shape):
            target = np.array([-1 if isinstance(side, str) else side for side in shape], np.int64)
            replace(
                node.outputs[0], new_node(node, "Reshape", [source, initializer(model.graph, "shape", target)], shape)
            )


def merge_transposes(model: ir.Model) -> None:
    """``Transpose(Transpose(x, p), q) -> Transpose(x, p∘q)``, and nothing at all when that is the identity."""
    for node in list(model.graph):
        inner = producer(node.inputs[0], "Transpose") if node.op_type == "Transpose" else None
        if inner is None or "perm" not in node.attributes or "perm" not in inner.attributes:
            continue
        first, second = inner.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
        perm = [first[axis] for axis in second]
        source = inner.inputs[0]
        if (
            perm == sorted(perm)
            and source is not None
            and not (source.is_graph_input() and node.outputs[0].is_graph_output())
        ):
            replace(node.outputs[0], source)
        else:
            replace(node.outputs[0], new_node(node, "Transpose", [source], shape_of(node.outputs[0]), perm=perm))


def one_scale_for_scores(model: ir.Model) -> None:
    """``MatMul(Mul(q, a), Mul(k, b)) -> MatMul(Mul(q, a·b), k)`` for scalars a and b."""
    for node in list(model.graph):
        if node.op_type != "MatMul":
            continue
        left, right = (_scaled(value) for value in node.inputs)
        if left is None or right is None:
            continue
        (query, first), (key, second) = left, right
        scale = initializer(model.graph, "attention_scale", np.asarray(first * second))
        scaled = new_node(node, "Mul", [query, scale], shape_of(query))
        node.replace_input_with(0, scaled)
        node.replace_input_with(1, key)


def _scaled(value: ir.Value | None) -> tuple[ir.Value, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] | None:
    """(x, scalar) when ``value`` is ``Mul(x, scalar)``."""
    node = producer(value, "Mul")
    if node is None:
        return None
    for data, factor in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        array = constant_of(factor)
        if data is not None and array is not None and array.size == 1:
            return data, array.reshape(())
    return None


REWRITES: tuple[Rewrite, ...] = (
    resolve_shapes,
    pick_token_early,
    plain_batched_transpose,
    separate_qkv,
    one_scale_for_scores,
    flatten_tokens,
    merge_reshapes,
    merge_transposes,
)


def apply_all(model: ir.Model) -> None:
    """Every rewrite once, in order."""
    for rewrite in REWRITES:
        rewrite(model)
