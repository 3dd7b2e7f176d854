"""The ONNX target: one file that a bare onnxruntime session opens, fp32 or strongly typed fp16."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import onnx
import onnx_ir as ir
from pydantic import Field

from edgevit.artifact.manifest import PrecisionReport
from edgevit.errors import ExportFailed, first_line
from edgevit.export.base import Built, Capture, Context, Options
from edgevit.export.onnx.graph import build_graph, name_nodes, separate_outputs, tidy
from edgevit.export.onnx.half import COMPUTE, count_compute, is_island, to_half
from edgevit.export.precision import plan_fp16, scan_activations

ENTRY = "model.onnx"
EXTERNAL = "model.onnx.data"
GELU_OPSET = 20
PROTOBUF_LIMIT = 2_000_000_000  # bytes; protobuf refuses messages of 2 GiB, and the graph itself needs some


class OnnxOptions(Options):
    """Options of the ONNX target."""

    opset: int = Field(default=20, ge=18, le=23, description="ONNX operator set; Gelu is one operator from 20 on")
    optimize: bool = Field(default=True, description="edgevit's own graph rewrites")
    external_limit: int = Field(
        default=PROTOBUF_LIMIT, ge=0, description="weights of more bytes than this go to model.onnx.data"
    )


class OnnxExporter:
    """Captured program -> ``model.onnx``."""

    name = "onnx"
    precisions = ("fp32", "fp16")
    options = OnnxOptions

    def write(self, capture: Capture, folder: Path, *, precision: str, options: OnnxOptions, context: Context) -> Built:
        """Build, check and save. Raises Unsupported, ExportFailed."""
        model = build_graph(capture, options.opset, optimize=options.optimize)
        report = lower_precision(model, capture) if precision == "fp16" else _full_precision(model)
        separate_outputs(model, [spec.name for spec in capture.outputs])
        save(model, folder, options.external_limit)
        versions = {name: metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnx-ir")}
        return Built(entry=ENTRY, precision=report, versions=versions, notes=tuple(_notes(model, options)))


def lower_precision(model: ir.Model, capture: Capture) -> PrecisionReport:
    """Convert to fp16 but for what the activation scan keeps, and prove by counting that it was done."""
    plan = plan_fp16(capture, scan_activations(capture))
    planned = sum(node.op_type in COMPUTE and not is_island(node, plan.modules) for node in model.graph.all_nodes())
    to_half(model, plan.modules)
    tidy(model)
    name_nodes(model)
    counts = count_compute(model)
    if counts.get("float16", 0) < planned:
        raise ExportFailed(
            f"precision truth: {counts.get('float16', 0)} layers are fp16 in the built graph, {planned} were planned",
            hint="please report this model",
        )
    return PrecisionReport(requested="fp16", layers=counts, kept_fp32=plan.kept())


def _full_precision(model: ir.Model) -> PrecisionReport:
    return PrecisionReport(requested="fp32", layers=count_compute(model))


def _notes(model: ir.Model, options: OnnxOptions) -> list[str]:
    written = any(node.op_type == "Erf" for node in model.graph.all_nodes())
    if options.opset < GELU_OPSET and written:
        return [f"GELU is written out with Erf: it is one operator from opset {GELU_OPSET} on"]
    return []


def save(model: ir.Model, folder: Path, external_limit: int) -> None:
    """Write ``model.onnx`` (with ``model.onnx.data`` for large weights) and put it through onnx's full check."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    path = folder / ENTRY
    ir.save(model, path, external_data=EXTERNAL if weights > external_limit else None)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as exc:  # checker and shape inference raise different kinds
        raise ExportFailed(f"the built graph does not pass onnx's checker: {first_line(exc)}") from exc
