"""Our ONNX graph -> ``model.xml`` and ``model.bin``, by a worker process that imports OpenVINO."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from edgevit.artifact.manifest import PrecisionReport
from edgevit.errors import ExportFailed
from edgevit.export.base import Built, Capture, Context, Graph
from edgevit.export.compiler import run_compiler
from edgevit.export.onnx import ENTRY as ONNX_FILE
from edgevit.export.onnx import OnnxExporter, OnnxOptions
from edgevit.export.openvino.job import make_job
from edgevit.export.openvino.options import OpenVinoOptions
from edgevit.precisions import INTEGER_PRECISIONS
from edgevit.quantize.plan import INTEL

ENTRY = "model.xml"
CONVERT = "edgevit.export.openvino.convert:convert"
COMPUTES = {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16", "int8": "fp32"}  # precision -> what floats are computed in
_SAID = {
    "fp16": "weights are stored in float16, and multiplied in float32",
    "bf16": "weights of layers are stored in bfloat16; products of two activations are in it too, sums in float32",
    "int8": "which layers run in integers, OpenVINO decides on the processor: edgevit verify counts them",
}
_ENCODINGS = {"x86": INTEL, "avx2": INTEL.model_copy(update={"weights": 7})}


class OpenVinoExporter:
    """Captured program, or an ONNX file's graph -> IR."""

    name = "openvino"
    precisions = ("fp32", "fp16", "bf16", "int8")
    options = OpenVinoOptions
    one_size = ""

    def write(
        self, capture: Capture | Graph, folder: Path, *, precision: str, options: OpenVinoOptions, context: Context
    ) -> Built:
        """Convert in a worker process, and count what was saved. Raises Unsupported, ExportFailed."""
        begun = time.monotonic()
        exporter = OnnxExporter(lines=True, encoding=_ENCODINGS[options.encoding])
        of_graph = precision if precision in INTEGER_PRECISIONS else "fp32"
        with tempfile.TemporaryDirectory(prefix="edgevit-onnx-") as scratch:
            graph = exporter.write(capture, Path(scratch), precision=of_graph, options=OnnxOptions(), context=context)
            job = make_job(Path(scratch) / ONNX_FILE, folder / ENTRY, capture, precision)
            answer = run_compiler(CONVERT, job, context, begun, title="OpenVINO")
        kept = {**graph.precision.kept_fp32, **answer["kept"]}
        built = Built(
            entry=ENTRY,
            precision=PrecisionReport(requested=precision, layers=answer["layers"], kept_fp32=kept),
            versions={**graph.versions, "openvino": answer["version"]},
            notes=tuple(notes(precision)),
            plan=graph.plan,
            operators=graph.operators,
            constants=graph.constants,
        )
        require_integers(built)
        return built


def require_integers(built: Built) -> None:
    """ExportFailed where the saved file has fewer layers of integers than were put in."""
    if (found := built.precision.layers.get("int8", 0)) < built.operators:
        raise ExportFailed(
            f"precision truth: {found} layers of the saved file have int8 weights, {built.operators} were put in",
            hint="please report this model, or build with --precision fp32",
        )


def notes(precision: str) -> list[str]:
    """What a reader of the manifest should know about this build."""
    own = "which is also OpenVINO's default on a processor that has it, and needs one"
    if COMPUTES[precision] != "bf16":
        own = "since OpenVINO's default is bf16 on a processor that has it"
    found = [
        f"edgevit has OpenVINO compute it in {COMPUTES[precision]}; a program of your own has to set "
        f"INFERENCE_PRECISION_HINT, {own}"
    ]
    if said := _SAID.get(precision):
        found.insert(0, said)
    return found
