"""Which operations of a Core ML program stay in float32, and what the saved package really holds.

Core ML's fp16 is the Neural Engine's: an operation in float32 leaves it for the CPU or the GPU, twice through a cast.
So float32 is kept only where ranges or weights demand it: modules of the activation scan's plan, and means whose sum
would leave fp16. LayerNormalization and softmax are single operations of MIL, computed in fp16 like the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgevit.artifact.manifest import PrecisionReport
from edgevit.errors import ExportFailed
from edgevit.export.base import Capture
from edgevit.export.capture import Baked, program_module, unbaked
from edgevit.export.coreml.convert import Selector, handle_of
from edgevit.export.coreml.places import WHY
from edgevit.export.coreml.program import Source
from edgevit.export.fp16 import RANGE_LIMIT
from edgevit.export.precision import ActivationRanges, module_path, plan_fp16, scan_activations
from edgevit.module_paths import Place

COMPUTE = frozenset({"conv", "conv_transpose", "linear", "matmul", "einsum", "scaled_dot_product_attention"})
_MEANS = frozenset({torch.ops.aten.mean.dim, torch.ops.aten.mean.default, torch.ops.aten.adaptive_avg_pool2d.default})
_MEAN_TYPES = frozenset({"reduce_mean", "avg_pool", "reduce_sum"})


@dataclass(frozen=True)
class Islands:
    """What stays in float32, with reasons: whole modules by path, and the means of others."""

    modules: Mapping[str, str]
    means: Mapping[str, str]

    def holds(self, module: str, kind: str) -> bool:
        """Whether an operation of this MIL type in this module belongs to an island."""
        return module in self.modules or (module in self.means and kind in _MEAN_TYPES)

    def report(self) -> dict[str, str]:
        """Both together, "model" being the model itself; a module kept whole is named once."""
        named = {path or "model": reason for path, reason in self.modules.items()}
        return named | {
            f"{path or 'model'} (mean)": reason for path, reason in self.means.items() if path not in self.modules
        }


def find_islands(capture: Capture) -> Islands:
    """Scan the activations of the calibration rows and decide."""
    ranges = scan_activations(capture)
    baked = isinstance(capture.module, Baked)
    means = {unbaked(path) if baked else path: reason for path, reason in _means_out_of_range(capture, ranges).items()}
    return Islands(plan_fp16(capture, ranges).modules, means)


def _means_out_of_range(capture: Capture, ranges: ActivationRanges) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in program_module(capture.program).graph.nodes:
        if node.target in _MEANS:
            largest = ranges.by_node.get(node.name, 0.0) * _terms(node)
            if largest > RANGE_LIMIT:
                reason = f"its sums reach {largest:.3g}, fp16 is kept below {RANGE_LIMIT:,.0f}"
                found[module_path(node)] = reason
    return found


def _terms(node: fx.Node) -> float:
    """How many values each mean is of."""
    taken, left = (math.prod(side for side in one.meta["val"].shape[1:]) for one in (node.all_input_nodes[0], node))
    return float(taken) / float(left)


def selector(source: Source, islands: Islands) -> Selector:
    """What coremltools asks of every operation: is it to become fp16?"""

    def low_precision(operation: Any) -> bool:
        return not (is_exact(operation, source) or islands.holds(module_of(operation, source), operation.op_type))

    return low_precision


def is_exact(operation: Any, source: Source) -> bool:
    """Whether a MIL operation computes places."""
    return handle_of(operation) in source.exact


def module_of(operation: Any, source: Source) -> str:
    """Path of the PyTorch module that a MIL operation came from, "" for the model itself."""
    return place_of(operation, source).path


def place_of(operation: Any, source: Source) -> Place:
    handle = handle_of(operation)
    return Place() if handle is None else source.places[handle]


@dataclass(frozen=True)
class Layer:
    """One operation of the saved package. ``dtype`` is that of its first result; ``module`` None where unknown;
    ``integers`` the text of the mark of one that multiplies by the integers of a plan."""

    name: str
    op: str
    dtype: str
    module: str | None
    integers: str | None = None


def read_layers(spec: Any, modules: Mapping[str, str], marks: Mapping[str, str] | None = None) -> list[Layer]:
    """The operations in a package's specification, in order. ``modules`` maps names of results to module paths,
    ``marks`` to what they have of a plan's integers."""
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    found = []
    for operation in block.operations:
        if operation.type == "const":
            continue
        result = operation.outputs[0]
        mark = (marks or {}).get(result.name)
        found.append(Layer(result.name, operation.type, _dtype(result), modules.get(result.name), mark))
    return found


def _dtype(value: Any) -> str:
    kind = value.type.tensorType.dataType
    name: str = value.type.tensorType.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number[kind].name
    return name.lower()


def truthful_report(
    layers: Iterable[Layer],
    precision: str,
    islands: Islands | None,
    places: frozenset[str] = frozenset(),
    weights_alone: bool = False,
) -> PrecisionReport:
    """Counts of compute operations by type; ``places`` are results that were to stay in float32, ``weights_alone`` says
    that operations whose weights are integers compute in floats.

    ExportFailed when an operation that was to be fp16 is not.
    """
    counts: dict[str, int] = {}
    kept = islands.report() if islands is not None else {}
    for layer in layers:
        if layer.op in COMPUTE:
            stored = "int8" if layer.integers and not weights_alone else layer.dtype
            counts[stored] = counts.get(stored, 0) + 1
        if islands is None or layer.dtype != "float32" or layer.op == "cast":
            continue
        if islands.holds(layer.module or "", layer.op):
            continue
        if layer.op in COMPUTE:
            raise ExportFailed(
                f"precision truth: {layer.op} {layer.name} (in {layer.module or 'the model'}) is float32 in the saved "
                "package, fp16 was planned",
                hint="please report this model, or build with --precision fp32",
            )
        why = WHY if layer.name in places else "coremltools leaves this operation in float32"
        kept[f"{layer.module or 'model'} ({layer.op})"] = why
    return PrecisionReport(requested=precision, layers=counts, kept_fp32=kept)
