"""The TVM target: the captured program compiled to one shared library, ``model.so``, in worker processes.

Nothing here imports TVM: a process that has opened a session holds TVM's runtime library without its compiler.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from edgevit.artifact.manifest import PrecisionReport
from edgevit.export.base import Built, Capture, Context, Options
from edgevit.export.compiler import run_compiler
from edgevit.export.weight import Constant
from edgevit.module_paths import Place

ENTRY = "model.so"
LAYERS = "layers.json"  # the PyTorch module of every kernel call
PROGRAM = "program.pt2"
TUNE = "edgevit.export.tvm.building:tune_in_worker"
BUILD = "edgevit.export.tvm.building:build_in_worker"


class TvmOptions(Options):
    """Options of the TVM target."""

    arch: str = Field(default="host", description="instruction set to build for: host, aarch64 or armv7")
    target: str = Field(default="", description="the target in TVM's own words, instead of arch (a tag, JSON, or cuda)")
    trials: int = Field(default=0, ge=0, description="kernels to time while searching for faster schedules")
    minutes: float = Field(default=0.0, ge=0, description="minutes to search for faster schedules")
    records: Literal["all", "own", "none"] = Field(
        default="all", description="tuning records to use: all, own (not those that ship with edgevit) or none"
    )

    @field_validator("records")
    @classmethod
    def _search_has_a_use(cls, records: str, info: ValidationInfo) -> str:
        if records == "none" and (info.data.get("trials") or info.data.get("minutes")):
            raise ValueError("none would leave out what the search finds; own searches from the rules")
        return records


class TvmExporter:
    """Captured program -> ``model.so``. CPUs have no float16 arithmetic worth compiling for, so fp32 it is."""

    name = "tvm"
    precisions = ("fp32",)
    options = TvmOptions
    one_size = "its kernels are scheduled for the sizes of their loops"

    def write(self, capture: Capture, folder: Path, *, precision: str, options: TvmOptions, context: Context) -> Built:
        """Compile. Raises Unsupported, ExportFailed, MissingDependency, UsageError."""
        import torch

        from edgevit.export.capture import Baked

        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="edgevit-tvm-") as scratch:
            program = Path(scratch) / PROGRAM
            torch.export.save(capture.program, program)
            paths = {"program": str(program), "library": str(folder / ENTRY), "layers": str(folder / LAYERS)}
            baked = isinstance(capture.module, Baked)
            job = {**paths, "baked": baked, "threads": context.threads, **options.model_dump()}
            notes = tune(job, context, begun) if options.trials or options.minutes else []
            answer = run_compiler(BUILD, job, context, begun, title="TVM")
        return Built(
            entry=ENTRY,
            precision=PrecisionReport(requested=precision, layers=answer["layers"]),
            versions={"torch": torch.__version__, **answer["versions"]},
            notes=(*notes, *answer["notes"]),
            lock=answer["lock"],
            constants=tuple(Constant(size, Place(*place)) for size, *place in answer["constants"]),
        )


def tune(job: dict[str, Any], context: Context, begun: float) -> list[str]:
    """Search for schedules; the database keeps what is found, so that Ctrl-C only ends the search. A note if it did."""
    try:
        run_compiler(TUNE, job, context, begun, title="TVM")
    except KeyboardInterrupt:
        return ["the search for schedules was stopped early; what it had found is used"]
    return []
