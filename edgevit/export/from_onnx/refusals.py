"""What a graph may hold that no target here takes: said in words, before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from edgevit.errors import Unsupported
from edgevit.printable import printable

STANDARD = ("", "ai.onnx")
HALVES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_INTEGERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_SHOWN = 3


def refuse(model: ModelProto, shown: str) -> None:
    """Unsupported, with the way out, for the first thing that nothing can be built from; ``shown`` names the file."""
    found = list(nodes(model))
    for check in (_quantised, _foreign, _unknown):
        check(model, found, shown)
    _halves(model, shown)
    _ends(model, shown)


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of the model: of inner graphs and of its own functions too."""
    yield from _nodes(model.graph)
    for function in model.functions:
        yield from _nodes(function)


def _nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _quantised(model: ModelProto, found: list[NodeProto], shown: str) -> None:
    if names := _named(found, lambda node: node.op_type in _INTEGERS or node.op_type.startswith(("QLinear", "QGemm"))):
        raise Unsupported(
            f"{shown} is quantised already: it holds {names}",
            hint="give the float32 model that it was made from",
        )


def _foreign(model: ModelProto, found: list[NodeProto], shown: str) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    if names := _named(
        found, lambda node: node.domain not in STANDARD and (node.domain, node.op_type) not in own, domain=True
    ):
        raise Unsupported(
            f"{shown} holds operators that are not ONNX's own: {names}",
            hint="export the model again with standard operators only, and not optimised for one engine",
        )


def _unknown(model: ModelProto, found: list[NodeProto], shown: str) -> None:
    own = {function.name for function in model.functions if function.domain in STANDARD}
    if names := _named(
        found, lambda node: node.domain in STANDARD and node.op_type not in own and not onnx.defs.has(node.op_type)
    ):
        raise Unsupported(
            f"{shown} holds operators that ONNX does not have: {names}", hint="export the model again, in opset 20"
        )


def _named(found: list[NodeProto], wrong: Callable[[NodeProto], bool], *, domain: bool = False) -> str:
    """The operators that are ``wrong``, each once."""
    names = sorted({f"{node.domain}.{node.op_type}" if domain else node.op_type for node in found if wrong(node)})
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN])) + more


def _halves(model: ModelProto, shown: str) -> None:
    """Half precision anywhere: there is no float32 answer to compare with."""
    types = {tensor.data_type for tensor in model.graph.initializer}
    types |= {end.type.tensor_type.elem_type for end in (*model.graph.input, *model.graph.output)}
    for kind in types & set(HALVES):
        raise Unsupported(
            f"{shown} is in {HALVES[kind]} already, and artifacts are proved against a float32 model",
            hint="give the float32 model, and --precision fp16 if that is wanted",
        )


def _ends(model: ModelProto, shown: str) -> None:
    """Sequences, maps and optionals are nothing that an artifact can take or give."""
    if twice := {end.name for end in model.graph.input} & {end.name for end in model.graph.output}:
        raise Unsupported(
            f"{shown} gives its input {printable(min(twice))} back as an output, under the same name",
            hint="export the model without that output",
        )
    for kind, ends in (("input", model.graph.input), ("output", model.graph.output)):
        for end in ends:
            if _is_tensor(end.type):
                continue
            raise Unsupported(
                f"{kind} {printable(end.name)} of {shown} is no tensor, which no artifact can hold",
                hint=f"cut the model off before that {kind}, or export it with tensors only",
            )


def _is_tensor(type_: TypeProto) -> bool:
    return type_.WhichOneof("value") in ("tensor_type", None)
