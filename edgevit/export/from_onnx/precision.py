"""Which nodes of an ONNX file's graph fp16 must leave alone: its values on real rows, its weights, its operators."""

from __future__ import annotations

import onnx_ir as ir

from edgevit.errors import Unsupported
from edgevit.export.base import Graph
from edgevit.export.fp16 import (
    MEAN,
    NORMALISATION,
    RANGE_LIMIT,
    SOFTMAX,
    PrecisionPlan,
    out_of_range,
    weight_trouble,
)
from edgevit.export.from_onnx.original import largest_values
from edgevit.export.from_onnx.trials import watched
from edgevit.export.onnx.edit import constant_of
from edgevit.export.onnx.graph import module_of
from edgevit.printable import printable

_KINDS = {
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "InstanceNormalization"), NORMALISATION),
    **dict.fromkeys(("Softmax", "LogSoftmax"), SOFTMAX),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "GlobalAveragePool"), MEAN),
}


def plan_graph(graph: Graph) -> PrecisionPlan:
    """Modules and operators that fp16 must keep in float32, each with its reason. Unsupported for a graph that cannot
    be written in fp16 at all."""
    _require_typed(graph.model)
    copy, touched = watched(graph.model)
    modules: dict[str, str] = {}
    for name, reached in largest_values(copy, graph).items():
        if reached > RANGE_LIMIT:
            modules |= {module_of(node): out_of_range(reached) for node in touched[name]}
    operators: dict[str, str] = {}
    for node in graph.model.graph:
        for value in node.inputs:
            array = constant_of(value)
            if value is None or array is None or value.dtype != ir.DataType.FLOAT or array.size < 2:
                continue
            if reason := weight_trouble(printable(str(value.name)), array):
                modules[module_of(node)] = reason
        if node.op_type in _KINDS:
            mark, why = _KINDS[node.op_type]
            operators[module_of(node) + mark] = why
    return PrecisionPlan(modules, operators)


def _require_typed(model: ir.Model) -> None:
    """Unsupported where casts cannot be placed: inside branches and loops, and where a value has no known type."""
    hint = "build it in fp32, or give the model as PyTorch"
    for node in model.graph:
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise Unsupported(
                f"fp16 cannot be built of a graph with branches or loops: it holds {node.op_type}", hint=hint
            )
        if any(value.dtype is None for value in node.outputs):
            raise Unsupported(
                f"fp16 cannot be built: what {printable(str(node.name))} gives has no known type", hint=hint
            )
