"""``edgevit quantize``: from a model and real rows to a checkpoint that has its integers, for every target the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.artifact.claim import claimed
from edgevit.artifact.goodness import Loss
from edgevit.disk import filling
from edgevit.errors import Unsupported, UsageError
from edgevit.export.base import Progress, silent
from edgevit.export.prepare import prepare
from edgevit.models.loading.checkpoint import CheckpointMeta, save_checkpoint
from edgevit.models.loading.source import load
from edgevit.models.spec import ModelSpec, spec_of
from edgevit.models.threads import torch_threads
from edgevit.quantize.integral import Integral
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.stored import Stored, as_tensors, stored
from edgevit.registry import own_version
from edgevit.request import ExportRequest
from edgevit.train.options import TrainOptions
from edgevit.train.refusals import check_out


@dataclass(frozen=True)
class QuantizeResult:
    """What was written."""

    path: Path
    plan: QuantPlan
    loss: Loss
    seconds: float

    def record(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "checkpoint": str(self.path),
            "quantizer": self.plan.quantizer,
            "layers": len(self.plan.layers),
            "kept": dict(self.plan.kept),
            "corrected": list(self.plan.corrected),
            "loss": self.loss.model_dump(mode="json"),
            "seconds": self.seconds,
        }

    def facts(self) -> Iterator[tuple[str, str]]:
        """Topics and sentences."""
        layers = len(self.plan.layers)
        yield "checkpoint", str(self.path)
        yield "integers", f"{layers} of {layers + len(self.plan.kept)} weights; {self.loss.sentence()}"
        yield "found by", f"{self.plan.quantizer}, which corrected {len(self.plan.corrected)}, in {self.seconds:.0f} s"
        yield "calibrated on", self.plan.calibration.sentence()


def quantize(request: ExportRequest, out: Path, *, force: bool, progress: Progress = silent) -> QuantizeResult:
    """Find integers of a model and write them beside its weights. Errors of ``prepare``, ``plan_int8`` and the gate;
    UsageError for an ``out`` that is there, and for a model that has integers."""
    require_free(out, force=force)
    with claimed(out), filling(out), torch_threads(request.threads):
        return _quantize(request, out, progress)


def require_free(out: Path, *, force: bool) -> None:
    """UsageError for an ``-o`` that cannot be written, or would be written over."""
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} cannot hold integers beside weights", hint="end it with .safetensors")
    check_out(out, TrainOptions(force=force))


def _quantize(request: ExportRequest, out: Path, say: Progress) -> QuantizeResult:
    started = time.perf_counter()
    source = load(request.model)
    spec = spec_of(source)
    if spec is None or spec.image_size is None:
        raise Unsupported("a checkpoint is of a model that takes images", hint="give one that does, or export it")
    if spec.integers is not None:
        raise UsageError(
            f"{spec.integers[0]} has its integers already", hint="give the float weights that it was made of"
        )
    prepared = prepare(request, say)
    say("ranges on calibration rows", None)
    integral = prepared.integers() if prepared.integers is not None else None
    if not isinstance(integral, Integral):
        raise Unsupported(f"{spec.name} cannot be int8", hint="use --precision fp32")
    integral.require_captured(prepared)
    plan, loss = integral.gated(integral.plan, say)
    said, tensors = stored(integral.only(plan), integral.capture, integral.calibrating)
    save_checkpoint(out, _floats(source.state_dict()), _meta(spec, request, said), as_tensors(tensors))
    return QuantizeResult(out, plan, loss, time.perf_counter() - started)


def _floats(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors alone: modules may keep other things in their state."""
    return {name: value for name, value in state.items() if hasattr(value, "dtype")}


def _meta(spec: ModelSpec, request: ExportRequest, said: Stored) -> CheckpointMeta:
    height, width = spec.image_size or (1, 1)
    return CheckpointMeta(
        model=spec.name,
        num_classes=spec.num_classes,
        image_size=(height, width),
        labels=request.labels or spec.labels,
        preprocess=spec.preprocess,
        data=spec.data or request.data,
        task=spec.task or request.task,
        accuracy=spec.accuracy,
        integers=said.model_dump_json(),
        edgevit=own_version(),
    )
