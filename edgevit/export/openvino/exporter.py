"""Our ONNX graph -> ``model.xml`` and ``model.bin``, by a worker process that imports OpenVINO."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from edgevit.artifact.manifest import PrecisionReport
from edgevit.export.base import Built, Capture, Context, Graph
from edgevit.export.compiler import run_compiler
from edgevit.export.onnx import ENTRY as ONNX_FILE
from edgevit.export.onnx import OnnxExporter, OnnxOptions
from edgevit.export.openvino.job import make_job
from edgevit.export.openvino.options import OpenVinoOptions

ENTRY = "model.xml"
CONVERT = "edgevit.export.openvino.convert:convert"
COMPUTES = {"fp32": "fp32", "fp16": "fp32"}  # precision -> what a session computes in, unless it is told otherwise


class OpenVinoExporter:
    """Captured program, or an ONNX file's graph -> IR."""

    name = "openvino"
    precisions = ("fp32", "fp16")
    options = OpenVinoOptions
    one_size = ""

    def write(
        self, capture: Capture | Graph, folder: Path, *, precision: str, options: OpenVinoOptions, context: Context
    ) -> Built:
        """Convert in a worker process, and count what was saved. Raises Unsupported, ExportFailed."""
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="edgevit-onnx-") as scratch:
            graph = OnnxExporter(lines=True).write(
                capture, Path(scratch), precision="fp32", options=OnnxOptions(), context=context
            )
            job = make_job(Path(scratch) / ONNX_FILE, folder / ENTRY, capture, precision)
            answer = run_compiler(CONVERT, job, context, begun, title="OpenVINO")
        return Built(
            entry=ENTRY,
            precision=PrecisionReport(requested=precision, layers=answer["layers"], kept_fp32=answer["kept"]),
            versions={**graph.versions, "openvino": answer["version"]},
            notes=tuple(notes(precision)),
        )


def notes(precision: str) -> list[str]:
    """What a reader of the manifest should know about this build."""
    found = [
        f"edgevit has OpenVINO compute it in {COMPUTES[precision]}; a program of your own has to set "
        "INFERENCE_PRECISION_HINT, since OpenVINO's default is bf16 on a processor that has it"
    ]
    if precision == "fp16":
        found.insert(0, "weights are stored in float16, and multiplied in float32")
    return found
