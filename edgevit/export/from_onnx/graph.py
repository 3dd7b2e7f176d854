"""The graph that exporters build from: standard operators, one opset, ends pinned, everything constant folded."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer, version_converter

from edgevit.errors import Unsupported, first_line
from edgevit.export.base import Graph
from edgevit.export.from_onnx.ends import Port
from edgevit.export.onnx.edit import copied
from edgevit.export.onnx.graph import MODULE, finish, name_ends, quiet, scope
from edgevit.printable import printable

OLDEST = 18  # the first opset that the rewrites know: axes of sums are inputs, Split says how many
CHOSEN = 20  # what older files are brought to: Gelu is one operator from there on
NODES_HAVE_METADATA = 10  # IR version


def read_graph(path: Path, ports: tuple[Port, ...], cut: str | None) -> ir.Model:
    """The file's graph: functions inlined, initialisers constant, inputs pinned to ``ports`` with the batch called
    "batch" where it is open, opset 18 or later, every shape inferred anew. ``cut`` names the value that is its output.

    Unsupported where it cannot be brought to a later opset.
    """
    model = ir.load(path)
    ir.external_data.load_to_model(model)  # what is written from it lies elsewhere
    with quiet():
        passes.InlinePass()(model)
        passes.RemoveInitializersFromInputsPass()(model)
        if cut is not None:
            _cut_off(model, cut)
        _pin(model, ports)
        if model.opset_imports[""] < OLDEST:
            convert(model, CHOSEN)
        optimizer.optimize(model, onnx_shape_inference=True)
        passes.ShapeInferencePass()(model)
    model.ir_version = max(model.ir_version, NODES_HAVE_METADATA)
    _mark(model)
    return model


def write_graph(graph: Graph, opset: int | None, optimize: bool) -> ir.Model:
    """A copy of the graph for an exporter to edit: in ``opset`` where that was asked for, and rewritten. Unsupported
    for an opset older than the file's own."""
    model = copied(graph.model)
    own = model.opset_imports[""]
    if opset is not None and opset < own:
        raise Unsupported(
            f"the file is of opset {own}, and cannot be written in the older {opset}", hint="leave onnx.opset out"
        )
    if opset is not None and opset > own:
        convert(model, opset)
    name_ends(model, graph)
    finish(model, graph.metadata, optimize=optimize)
    return model


def convert(model: ir.Model, opset: int) -> None:
    """Bring the graph to a later opset. Unsupported where an operator has no way there."""
    why = "its operators have no later form"
    try:
        version_converter.convert_version(model, opset, fallback=True)
    except Exception as exc:  # the converter raises whatever an operator's adapter does
        why = printable(first_line(exc))
    if model.opset_imports.get("") != opset:
        raise Unsupported(
            f"the graph cannot be brought to opset {opset}: {why}", hint=f"export the model again in opset {opset}"
        )


def _cut_off(model: ir.Model, name: str) -> None:
    """Let the value called ``name`` be the only output."""
    (value,) = (one for node in model.graph for one in node.outputs if one.name == name)
    model.graph.outputs[:] = [value]


def _pin(model: ir.Model, ports: tuple[Port, ...]) -> None:
    """Sides of the inputs as in ``ports``; all other shapes are to be found anew, since they may hold others."""
    for value in (*(one for node in model.graph.all_nodes() for one in node.outputs), *model.graph.outputs):
        value.shape = None
    wanted = {port.name: port.sides for port in ports}
    for value in model.graph.inputs:
        sides = wanted[str(value.name)]
        value.shape = ir.Shape(["batch" if side is None else side for side in sides])


def _mark(model: ir.Model) -> None:
    """A path for every node under ``MODULE``: of the module that it came from where its exporter said so, else its own
    name, which is all that profiles and precision plans can call it by."""
    for node in model.graph.all_nodes():
        name = str(node.name or "")
        node.metadata_props[MODULE] = scope(node) or _from_name(name) or name.strip("/") or node.op_type


def _from_name(name: str) -> str:
    """``/blocks/blocks.0/attn/MatMul`` -> ``blocks.0.attn``, as torch's older exporter names nodes; else the name."""
    if not name.startswith("/"):
        return name
    parts: list[str] = []
    for part in name.split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)
