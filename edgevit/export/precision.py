"""Which parts of a model may be computed in fp16: activation ranges on real rows, and the plan that follows.

LayerNormalization, softmax and means are always kept in float32 (they sum squares, exponentials or whole maps);
everything else stays in float32 only where the scan or the weights say so. See docs/explanation/precision.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgevit.export.base import Capture
from edgevit.export.capture import NORMALISE, Baked, batches, program_module, unbaked
from edgevit.export.fp16 import MEAN, NORMALISATION, RANGE_LIMIT, SOFTMAX, PrecisionPlan, out_of_range, weight_trouble

_SDPA = torch.ops.aten.scaled_dot_product_attention.default
_NORMS = (
    torch.ops.aten.layer_norm.default,
    torch.ops.aten.native_layer_norm.default,
    torch.ops.aten.group_norm.default,
)
_SOFTMAX = (torch.ops.aten.softmax.int, torch.ops.aten._softmax.default, torch.ops.aten.log_softmax.int, _SDPA)
_MEANS = (
    torch.ops.aten.mean.dim,
    torch.ops.aten.mean.default,
    torch.ops.aten.sum.dim_IntList,
    torch.ops.aten.adaptive_avg_pool2d.default,
)


@dataclass(frozen=True)
class ActivationRanges:
    """Largest magnitudes seen on real rows.

    by_node    fx node of the captured program -> max |value| of what it returns (for attention: of its scores too)
    module_of  fx node -> path of the module whose forward it belongs to ("" is the model itself)
    rows       how many rows were scanned
    """

    by_node: Mapping[str, float]
    module_of: Mapping[str, str]
    rows: int


def scan_activations(capture: Capture) -> ActivationRanges:
    """Run the captured program on all calibration rows in float32 and remember max |x| of every floating value."""
    module = program_module(capture.program)
    scan = _Scan(module)
    rows = {spec.name: capture.calibration[spec.name] for spec in capture.inputs}
    with torch.no_grad():
        for chunk in batches(rows, capture.batch):
            scan.run(*chunk)
    paths = {node.name: module_path(node) for node in module.graph.nodes if node.name in scan.ranges}
    return ActivationRanges(scan.ranges, paths, len(next(iter(rows.values()))))


def module_path(node: fx.Node) -> str:
    """Path of the module whose forward made this node, "" for the model itself (and for weights and inputs)."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for key, entry in stack.items() if not key.startswith("_empty_nn_module_stack")]
    return paths[-1] if paths else ""


class _Scan(fx.Interpreter):
    """Runs a graph and keeps the largest magnitude of every floating tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.ranges: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op in ("call_function", "placeholder"):
            found = [_largest(value) for value in (result if isinstance(result, tuple | list) else [result])]
            if n.target is _SDPA:
                args, kwargs = self.fetch_args_kwargs_from_env(n)
                found.append(_attention_scores(*args, **kwargs))
            numbers = [value for value in found if value is not None]
            if numbers:
                self.ranges[n.name] = max(self.ranges.get(n.name, 0.0), *numbers)
        return result


def _largest(value: Any) -> float | None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return None
    biggest = float(value.abs().max())
    return math.inf if math.isnan(biggest) else biggest


def _attention_scores(query: Tensor, key: Tensor, *_: Any, scale: float | None = None, **__: Any) -> float | None:
    """max |q kᵀ · scale|: the scores exist only inside the fused operator, but every target computes them."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return _largest(query @ key.transpose(-2, -1) * factor) if query.shape[-3:-2] == key.shape[-3:-2] else None


def plan_fp16(capture: Capture, ranges: ActivationRanges) -> PrecisionPlan:
    """Modules and operators that fp16 must keep in float32, each with its reason."""
    modules: dict[str, str] = {}
    baked = isinstance(capture.module, Baked)
    graph = program_module(capture.program).graph
    for node in graph.nodes:
        for path in _paths_out_of_range(node, ranges):
            modules.setdefault(path, out_of_range(ranges.by_node[node.name]))
    modules |= weights_outside_fp16(capture.module)
    modules = {unbaked(path) if baked else path: reason for path, reason in modules.items()}
    operators = _operators_kept(graph.nodes)
    operators = {unbaked(path) if baked else path: reason for path, reason in operators.items()}
    if baked:
        modules[NORMALISE] = "pixels are normalised before they are rounded"
    return PrecisionPlan(modules, operators)


def _paths_out_of_range(node: fx.Node, ranges: ActivationRanges) -> list[str]:
    """Paths of a node whose value leaves the range, and of its users: they would read it through a cast to fp16."""
    if ranges.by_node.get(node.name, 0.0) <= RANGE_LIMIT:
        return []
    touched = [user for user in node.users if user.op == "call_function"]
    return [module_path(found) for found in ([node, *touched] if node.op == "call_function" else touched)]


def _operators_kept(nodes: Iterable[fx.Node]) -> dict[str, str]:
    kept: dict[str, str] = {}
    kinds = ((_NORMS, *NORMALISATION), (_SOFTMAX, *SOFTMAX), (_MEANS, *MEAN))
    for node in nodes:
        for operators, mark, reason in kinds:
            if node.target in operators:
                kept[module_path(node) + mark] = reason
    return kept


def weights_outside_fp16(module: nn.Module) -> dict[str, str]:
    """Modules whose own parameters overflow fp16 or lose more than rounding when stored in it, with the reason."""
    found: dict[str, str] = {}
    for path, child in module.named_modules():
        for name, value in [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]:
            if not value.is_floating_point() or not value.numel():
                continue
            if reason := weight_trouble(name, value.detach().float().numpy()):
                found[path] = reason
    return found
