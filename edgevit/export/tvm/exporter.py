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
from edgevit.errors import ExportFailed, Unsupported
from edgevit.export.base import Built, Capture, Context, Options
from edgevit.export.compiler import run_compiler
from edgevit.export.weight import Constant
from edgevit.module_paths import Place
from edgevit.quantize.plan import TVM, QuantPlan

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
    """Captured program -> ``model.so``. CPUs have no float16 arithmetic worth compiling for: fp32 it is, or int8."""

    name = "tvm"
    precisions = ("fp32", "int8")
    options = TvmOptions
    one_size = "its kernels are scheduled for the sizes of their loops"

    def write(self, capture: Capture, folder: Path, *, precision: str, options: TvmOptions, context: Context) -> Built:
        """Compile. Raises Unsupported, ExportFailed, MissingDependency, UsageError."""
        import torch

        from edgevit.export.capture import Baked

        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="edgevit-tvm-") as scratch:
            program = Path(scratch) / PROGRAM
            plan, operators, exported = None, 0, capture.program
            if precision == "int8":
                require_cpu(options)
                exported, plan, operators = planned(capture)
            torch.export.save(exported, program)
            paths = {"program": str(program), "library": str(folder / ENTRY), "layers": str(folder / LAYERS)}
            baked = isinstance(capture.module, Baked)
            job = {**paths, "baked": baked, "threads": context.threads, **options.model_dump()}
            notes = tune(job, context, begun) if options.trials or options.minutes else []
            answer = run_compiler(BUILD, job, context, begun, title="TVM")
        require_integers(answer["layers"], operators)
        return Built(
            entry=ENTRY,
            precision=PrecisionReport(
                requested=precision, layers=counted(answer["layers"]), kept_fp32=dict(plan.kept) if plan else {}
            ),
            versions={"torch": torch.__version__, **answer["versions"]},
            notes=(*notes, *answer["notes"]),
            lock=answer["lock"],
            constants=tuple(Constant(size, Place(*place)) for size, *place in answer["constants"]),
            plan=plan,
            operators=operators,
        )


def require_cpu(options: TvmOptions) -> None:
    """Unsupported for integers on a GPU: TVM's own rules have no products of them that were ever proved."""
    if options.target.strip() == "cuda":
        raise Unsupported(
            "TVM's integers are for CPUs", hint="use -t tensorrt, or --precision fp32 with tvm.target=cuda"
        )


def planned(capture: Capture) -> tuple[Any, QuantPlan, int]:
    """The program in the integers of the capture's plan, that plan on TVM's grids, and how many operators there are.
    Unsupported where none is left."""
    from edgevit.export.tvm.integers import in_integers

    if capture.plan is None:
        raise ValueError("integers are of a capture with a plan")
    program, plan, operators = in_integers(capture.program, capture.plan.encoded(TVM))
    if not plan.layers:
        raise Unsupported("TVM is given no layer of the plan", hint="use --precision fp32, or int8 for onnx")
    return program, plan, operators


def counted(layers: dict[str, int]) -> dict[str, int]:
    """Of products, by what they multiply: sums of integers of 8 bits are of 32."""
    return {"int8" if name == "int32" else name: count for name, count in layers.items()}


def require_integers(layers: dict[str, int], planned: int) -> None:
    """ExportFailed unless as many products are of integers in the built program as were written into it."""
    if (found := layers.get("int32", 0)) != planned:
        raise ExportFailed(
            f"precision truth: {found} products are of integers in the built program, {planned} were planned",
            hint="please report this model",
        )


def tune(job: dict[str, Any], context: Context, begun: float) -> list[str]:
    """Search for schedules; the database keeps what is found, so that Ctrl-C only ends the search. A note if it did."""
    try:
        run_compiler(TUNE, job, context, begun, title="TVM")
    except KeyboardInterrupt:
        return ["the search for schedules was stopped early; what it had found is used"]
    return []
