"""A float32 graph as a strongly typed fp16 graph: casts at the borders of float32 islands, inputs and outputs float32.

Every type is written in the graph, so an engine that obeys types (TensorRT) computes exactly this.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgevit.export.fp16 import FP16_MAX, FP16_SMALLEST_NORMAL
from edgevit.export.onnx.edit import scalar_of
from edgevit.export.onnx.graph import MODULE, module_of

F32, F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
# Sums over many values, exponentials, squares: fp16 loses or overflows here whatever the activations are.
ISLAND_OPERATORS = frozenset(
    {
        *("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization", "LpNormalization"),
        *("Softmax", "LogSoftmax", "GlobalAveragePool", "Exp", "Pow", "Range", "CumSum"),
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceProd"),
    }
)
FLOAT32_ONLY_INPUTS = {"Resize": (1, 2)}  # roi, scales
COMPUTE = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Attention", "Einsum"})


def to_half(model: ir.Model, keep: Collection[str]) -> None:
    """Convert in place. Nodes whose module is in ``keep``, and ``ISLAND_OPERATORS``, stay in float32."""
    graph = model.graph
    casts: dict[tuple[str, ir.DataType], ir.Value] = {}
    outputs = {id(value): value.name for value in graph.outputs}
    for node in list(graph):
        wanted = F32 if is_island(node, keep) else F16
        for index, value in enumerate(node.inputs):
            fixed = index in FLOAT32_ONLY_INPUTS.get(node.op_type, ())
            if value is not None and value.dtype in (F32, F16):
                node.replace_input_with(index, _as(value, F32 if fixed else wanted, node, casts))
        _type_outputs(node, wanted)
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype == F16:
            _restore_output(graph, index, value, str(outputs[id(value)]))
    _drop_unused_initializers(graph)


def is_island(node: ir.Node, keep: Collection[str]) -> bool:
    """Whether a node is computed in float32."""
    if node.op_type in ISLAND_OPERATORS or module_of(node) in keep:
        return True
    constants = [abs(number) for value in node.inputs if (number := scalar_of(value)) is not None]
    return any(number > FP16_MAX or 0 < number < FP16_SMALLEST_NORMAL for number in constants)


def _as(value: ir.Value, dtype: ir.DataType, user: ir.Node, casts: dict[tuple[str, ir.DataType], ir.Value]) -> ir.Value:
    """``value`` in ``dtype``: itself, an earlier copy, a converted initializer, or a new Cast right after it."""
    if value.dtype == dtype:
        return value
    key = (str(value.name), dtype)
    if key not in casts:
        casts[key] = _converted(value, dtype, user) if value.is_initializer() else _cast(value, dtype, user)
    return casts[key]


def _suffix(dtype: ir.DataType) -> str:
    return "fp16" if dtype == F16 else "fp32"


def _converted(value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
    if value.const_value is None or user.graph is None:
        raise ValueError(f"initializer {value.name} has no data")
    array = value.const_value.numpy().astype(np.float16 if dtype == F16 else np.float32)
    name = f"{value.name}_{_suffix(dtype)}"
    new = ir.Value(
        name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=ir.tensor(array, name=name)
    )
    _main_graph(user).register_initializer(new)
    return new


def _main_graph(node: ir.Node) -> ir.Graph:
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"{node.name} is in no graph")
    return node.graph


def _cast(value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
    producer = value.producer()
    where = module_of(producer) if producer is not None else module_of(user)
    node = ir.node("Cast", [value], {"to": dtype.value}, metadata_props={MODULE: where})
    out = node.outputs[0]
    out.name, out.dtype, out.shape = f"{value.name}_{_suffix(dtype)}", dtype, value.shape
    graph = _main_graph(user)
    if producer is not None:
        graph.insert_after(producer, node)
    else:
        graph.insert_before(graph[0], node)
    return out


def _type_outputs(node: ir.Node, wanted: ir.DataType) -> None:
    """Give a float result its new type; operators that name a type get it in their attribute."""
    floats = [value for value in node.outputs if value.dtype == F32]
    if not floats:
        return
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", wanted.value)
    elif node.op_type in ("ConstantOfShape", "Constant") and "value" in node.attributes:
        array = node.attributes["value"].as_tensor().numpy()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array.astype(_numpy_type(wanted))))
    elif "dtype" in node.attributes:
        node.attributes["dtype"] = ir.AttrInt64("dtype", wanted.value)
    for value in floats:
        value.dtype = wanted


def _numpy_type(dtype: ir.DataType) -> type[np.floating[ir.Any]]:
    return np.float16 if dtype == F16 else np.float32


def _restore_output(graph: ir.Graph, index: int, value: ir.Value, name: str) -> None:
    producer = value.producer()
    value.name = f"{name}_fp16"
    node = ir.node("Cast", [value], {"to": F32.value}, metadata_props={MODULE: module_of(producer) if producer else ""})
    out = node.outputs[0]
    out.name, out.dtype, out.shape = name, F32, value.shape
    graph.append(node)
    graph.outputs[index] = out


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def count_compute(model: ir.Model) -> dict[str, int]:
    """Convolutions and matrix products by the type of their inputs, all of which agree in a strongly typed graph."""
    counts: dict[str, int] = {}
    for node in model.graph.all_nodes():
        if node.op_type in COMPUTE and node.inputs[0] is not None and node.inputs[0].dtype is not None:
            kind = (
                "float16"
                if node.inputs[0].dtype == F16
                else node.inputs[0].dtype.name.lower().replace("float", "float32")
            )
            counts[kind] = counts.get(kind, 0) + 1
    return counts
