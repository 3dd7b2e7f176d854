"""Core ML's compute plan: which unit it prefers for every operation, and what share of the cost it expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact
from edgevit.foreign import TEXT_BYTES
from edgevit.runtimes.base import LayerTime

LAYERS = "layers.json"  # written by the exporter: the module of every operation
UNKNOWN = "unknown"
_UNITS = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "ane"}


@dataclass(frozen=True)
class Placement:
    """One operation of the compiled program.

    name       of its first result
    op         MIL type without the opset, "conv"
    unit       cpu, gpu or ane, where Core ML prefers to run it; "unknown" where it does not say
    supported  the units that could run it
    share      its part of the expected cost of an inference, 0 to 1
    """

    name: str
    op: str
    unit: str
    supported: tuple[str, ...]
    share: float


def placements(plan: Any) -> list[Placement]:
    """Operations of a ``coremltools.models.compute_plan.MLComputePlan`` in the program's order, without constants.

    BadArtifact when it is not the plan of an mlprogram.
    """
    program = plan.model_structure.program
    if program is None:
        raise BadArtifact("the package holds no mlprogram", hint="export anew")
    found = []
    for operation in program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        op = operation.operator_name.rpartition(".")[2]  # "ios17.conv"
        if op == "const":
            continue
        found.append(_placement(operation.outputs[0].name if operation.outputs else op, op, usage, cost))
    return found


def _placement(name: str, op: str, usage: Any, cost: Any) -> Placement:
    """``usage`` and ``cost`` as Core ML's plan has them, None where it does not say."""
    return Placement(
        name=name,
        op=op,
        unit=UNKNOWN if usage is None else _unit(usage.preferred_compute_device),
        supported=() if usage is None else tuple(_unit(one) for one in usage.supported_compute_devices),
        share=0.0 if cost is None else float(cost.weight),
    )


def _unit(device: Any) -> str:
    return _UNITS.get(type(device).__name__, UNKNOWN)


def layer_times(found: list[Placement], modules: Mapping[str, str | None], total_ms: float) -> list[LayerTime]:
    """Times of the operations that cost anything: Core ML tells shares, they are multiplied by ``total_ms``."""
    return [
        LayerTime(one.name, one.op, modules.get(one.name), one.unit, one.share * total_ms)
        for one in found
        if one.share > 0 or one.unit != UNKNOWN
    ]


def read_modules(folder: Path) -> dict[str, str | None]:
    """Name of an operation's result -> PyTorch module, from the artifact's ``layers.json``; BadArtifact without it."""
    try:
        rows = json.loads((folder / LAYERS).read_text("utf-8"))
        return {str(row["name"]): row["module"] for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise BadArtifact(f"{LAYERS} in {folder} cannot be read: {exc}", hint="export anew") from exc


def read_marks(artifact: Artifact) -> dict[str, str]:
    """Name of an operation's result -> the text of its mark, of those that are integers; BadArtifact unless
    ``layers.json`` is as it was written."""
    try:
        rows = json.loads(artifact.read(LAYERS, TEXT_BYTES))
        return {str(row["name"]): str(row["integers"]) for row in rows if row.get("integers") is not None}
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise BadArtifact(f"{LAYERS} in {artifact.path} cannot be read: {exc}", hint="export anew") from exc
