"""The ONNX target: one file that a bare onnxruntime session opens: fp32, strongly typed fp16, or pairs around integers.

It is made from a captured program, or from another ONNX file: then without torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
from pydantic import Field

from edgevit import registry
from edgevit.artifact.manifest import PrecisionReport
from edgevit.errors import ExportFailed, Unsupported, UsageError, first_line
from edgevit.export.base import Built, Capture, Context, Graph, Options
from edgevit.export.fp16 import PrecisionPlan
from edgevit.export.onnx.graph import constants_of, forget_lines, name_nodes, separate_outputs, tidy
from edgevit.export.onnx.half import COMPUTE, count_compute, is_island, to_half
from edgevit.precisions import precision_row
from edgevit.quantize.narrow import encoded
from edgevit.quantize.plan import ARM, AVX2, STORED, X86, Encoding
from edgevit.registry import ONNX_FILE

ENTRY = "model.onnx"
EXTERNAL = "model.onnx.data"
GELU_OPSET, INT4_OPSET = 20, 21
_ENCODINGS = {"x86": X86, "avx2": AVX2, "arm": ARM}
PROTOBUF_LIMIT = 2_000_000_000  # bytes; protobuf refuses messages of 2 GiB, and the graph itself needs some


class OnnxOptions(Options):
    """Options of the ONNX target."""

    opset: int = Field(default=20, ge=18, le=23, description="ONNX operator set; Gelu is one operator from 20 on")
    optimize: bool = Field(default=True, description="edgevit's own graph rewrites")
    encoding: Literal["x86", "avx2", "arm"] = Field(
        default="x86",
        description="of int8: unsigned activations for x86 with VNNI, weights of 7 bits for x86 without, or signed "
        "activations for Arm",
    )
    external_limit: int = Field(
        default=PROTOBUF_LIMIT, ge=0, description="weights of more bytes than this go to model.onnx.data"
    )

    def require(self, precision: str) -> None:
        """UsageError for what only integers have, Unsupported for an opset without the integers of a precision."""
        if precision != "int8" and "encoding" in self.model_fields_set:
            raise UsageError("onnx.encoding is of integers", hint="add --precision int8, or leave it out")
        if precision == "w4" and "opset" in self.model_fields_set and self.opset < INT4_OPSET:
            raise Unsupported(
                f"opset {self.opset} has no integers of 4 bits: they came with {INT4_OPSET}",
                hint=f"use --option onnx.opset={INT4_OPSET}, or --precision w8",
            )

    def opset_of(self, precision: str) -> int:
        """What a graph is written in."""
        return max(self.opset, INT4_OPSET) if precision == "w4" else self.opset


class OnnxExporter:
    """Captured program, or an ONNX file's graph -> ``model.onnx``."""

    name = "onnx"
    precisions = ("fp32", "fp16", "int8", "w8", "w4")
    options = OnnxOptions
    one_size = ""

    def __init__(self, *, lines: bool = False, encoding: Encoding | None = None) -> None:
        """``lines``: nodes say from which line of whose file they are. ``encoding``: of an engine that is given the
        graph, in place of the option's."""
        self.lines, self.encoding = lines, encoding

    def write(
        self, capture: Capture | Graph, folder: Path, *, precision: str, options: OnnxOptions, context: Context
    ) -> Built:
        """Build, check and save. Raises Unsupported, ExportFailed."""
        options = options.model_copy(update={"opset": options.opset_of(precision)})
        model = _graph(capture, options)
        if precision_row(precision).integers:
            built = _integers(model, capture, precision, self.encoding or _encoding(precision, options))
        else:
            built = _floats(model, capture, precision)
        separate_outputs(model, [spec.name for spec in capture.outputs])
        constants = constants_of(model)
        if not self.lines:
            forget_lines(model)
        save(model, folder, options.external_limit)
        return replace(built, versions=_versions(capture), notes=tuple(_notes(model, options)), constants=constants)


def _floats(model: ir.Model, capture: Capture | Graph, precision: str) -> Built:
    report = lower_precision(model, _plan(capture)) if precision == "fp16" else _full_precision(model)
    return Built(entry=ENTRY, precision=report, versions={})


def _encoding(precision: str, options: OnnxOptions) -> Encoding:
    alone = {"w8": STORED, "w4": STORED.model_copy(update={"weights": 4})}
    return alone.get(precision) or _ENCODINGS[options.encoding]


def _integers(model: ir.Model, capture: Capture | Graph, precision: str, encoding: Encoding) -> Built:
    """The graph in the integers of the capture's plan. Unsupported where it has none of its layers."""
    from edgevit.export.onnx.integers import to_integers
    from edgevit.quantize.sites import sites_of

    if isinstance(capture, Graph) or capture.plan is None:
        raise ValueError("integers are of a capture with a plan")
    sites = sites_of(capture.program, alone=encoding.weights_alone)
    plan, found = to_integers(model, encoded(capture.plan, sites.weights, encoding), sites)
    if not found:
        raise Unsupported("the ONNX graph has no layer of the plan", hint="use --precision fp32, or fp16")
    tidy(model)
    name_nodes(model)
    floats = sum(node.op_type in COMPUTE for node in model.graph.all_nodes())
    computed = {} if encoding.weights_alone else {"int8": len(found)}
    layers = {**computed, "float32": floats - sum(computed.values())}
    report = PrecisionReport(requested=precision, layers=layers, kept_fp32=dict(plan.kept))
    return Built(entry=ENTRY, precision=report, versions={}, plan=plan, operators=len(found))


def _graph(capture: Capture | Graph, options: OnnxOptions) -> ir.Model:
    if isinstance(capture, Graph):
        from edgevit.export.from_onnx.graph import write_graph

        return write_graph(capture, options.opset if "opset" in options.model_fields_set else None, options.optimize)
    from edgevit.export.onnx.traced import build_graph

    return build_graph(capture, options.opset, optimize=options.optimize)


def _plan(capture: Capture | Graph) -> PrecisionPlan:
    if isinstance(capture, Graph):
        from edgevit.export.from_onnx.precision import plan_graph

        return plan_graph(capture)
    from edgevit.export.precision import plan_fp16, scan_activations

    return plan_fp16(capture, scan_activations(capture))


def _versions(capture: Capture | Graph) -> dict[str, str]:
    """Of what took part; whichever ONNX Runtime it was, its distribution is called as the registry's row has it."""
    took = ONNX_FILE if isinstance(capture, Graph) else ("torch", "onnx", "onnxscript")
    found = {name.partition("|")[0]: registry.version_of(name) for name in (*took, "onnx-ir")}
    return {name: version for name, version in found.items() if version}


def lower_precision(model: ir.Model, plan: PrecisionPlan) -> PrecisionReport:
    """Convert to fp16 but for what the plan keeps, and prove by counting that it was done."""
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
    if model.opset_imports[""] < GELU_OPSET and written:
        return [f"GELU is written out with Erf: it is one operator from opset {GELU_OPSET} on"]
    own = model.opset_imports[""]
    return [f"the graph keeps the file's own opset, {own}"] if own != options.opset else []


def save(model: ir.Model, folder: Path, external_limit: int) -> None:
    """Write ``model.onnx`` (with ``model.onnx.data`` for large weights) and put it through onnx's full check."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    path = folder / ENTRY
    ir.save(model, path, external_data=EXTERNAL if weights > external_limit else None)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as exc:  # checker and shape inference raise different kinds
        raise ExportFailed(f"the built graph does not pass onnx's checker: {first_line(exc)}") from exc
