"""How large an ONNX graph is, and how much work one row is."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgevit.export.onnx.edit import int_attribute

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def count_weights(model: ir.Model) -> int:
    """Numbers in the float constants that have an axis. BatchNorm's statistics are among them: a file does not say
    which of its weights were trained."""
    found = (value.const_value for value in model.graph.initializers.values())
    return sum(int(tensor.size) for tensor in found if tensor is not None and tensor.shape and tensor.dtype in FLOATS)


def count_macs(model: ir.Model) -> int:
    """Multiply-accumulates of convolutions and matrix products for one row; a symbol in a shape counts as one."""
    return sum(_macs(node) for node in model.graph.all_nodes())


def _macs(node: ir.Node) -> int:
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    first, second, result = (_sides(value) for value in (*node.inputs[:2], node.outputs[0]))
    if not first or not second or not result:
        return 0
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    inner = first[0] if node.op_type == "Gemm" and int_attribute(node, "transA", 0) else first[-1]
    return math.prod(result) * inner


def _sides(value: ir.Value | None) -> list[int]:
    return [side if isinstance(side, int) else 1 for side in value.shape or ()] if value is not None else []
