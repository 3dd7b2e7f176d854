"""From a capture and calibration rows to the plan of its integers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from edgevit.errors import UnknownName, Unsupported
from edgevit.export.base import Capture
from edgevit.quantize.asked import Observer
from edgevit.quantize.observe import Inputs, Seen, ranges
from edgevit.quantize.plan import (
    LEVELS,
    SMALLEST,
    Calibration,
    Layer,
    QuantPlan,
    Range,
    Weight,
    weight_scales,
)
from edgevit.quantize.sites import Site, Sites, sites_of

Found = Mapping[str, tuple[Seen, Range]]


def plan_int8(
    capture: Capture, rows: Inputs, data: str, observer: Observer = "minmax", sites: Sites | None = None
) -> QuantPlan:
    """Every weight that an engine can have in integers, on the grids that ``rows`` of ``data`` ask for.

    Unsupported for a model that has none, or is quantised already; ExportFailed for rows that give no numbers.
    """
    _refuse_quantised(capture)
    sites = sites or sites_of(capture.program)
    watched = frozenset(node.name for site in sites.taken for node in (site.input, site.output))
    found = ranges(sites.module, watched, rows, capture.batch, observer)
    uses: dict[str, list[Site]] = {}
    for site in sites.taken:
        uses.setdefault(site.name, []).append(site)
    kept = {name: why for name, shared in uses.items() if (why := _unusable(shared, found))}
    layers = {name: _layer(shared, found, sites.weights[name]) for name, shared in uses.items() if name not in kept}
    kept = {**sites.kept, **kept}
    if not layers:
        why = next(iter(kept.values()), "nothing is multiplied by a weight")
        raise Unsupported(f"no layer of this model can be int8: {why}", hint="use --precision fp32, or fp16")
    rows_found = Calibration(data=data, rows=len(next(iter(rows.values()))), sha256=_digest(rows), observer=observer)
    return QuantPlan(layers=layers, kept=kept, calibration=rows_found)


def kept_float(plan: QuantPlan, paths: Sequence[str]) -> QuantPlan:
    """The plan without what ``--keep-float`` means. UnknownName for no layer; Unsupported where none is left."""
    kept = {name: f"--keep-float {path}" for path in paths for name in _below(plan, path)}
    if len(kept) == len(plan.layers):
        raise Unsupported("--keep-float leaves no layer in integers", hint="use --precision fp32, or keep fewer")
    return plan.without(kept) if kept else plan


def _refuse_quantised(capture: Capture) -> None:
    for node in capture.program.graph.nodes:
        if node.op == "call_function" and any(mark in str(node.target) for mark in ("quantiz", "torchao")):
            raise Unsupported(
                f"the model is quantised already: it calls {node.target}",
                hint="give the float model; edgevit finds the integers itself",
            )


def _unusable(shared: list[Site], found: Found) -> str | None:
    """Why what was seen gives no grid, None where it does."""
    seen = [found[site.input.name] for site in shared]
    if not any(one.varies for one, _ in seen):
        return "its input was the same number in all calibration rows"
    if max(full.high - full.low for _, full in seen) < LEVELS * SMALLEST:
        return "its input is too small for a float32 scale"
    return None


def _layer(shared: list[Site], found: Found, weight: Weight) -> Layer:
    """The layer of all operators that share a weight: one grid holds what any of them is given."""
    first = shared[0]
    given = _union([found[site.input.name][1] for site in shared])
    relu = all(site.relu is not None for site in shared)
    ends = [found[(site.output if relu else site.node).name][1] for site in shared] if first.kind == "conv" else []
    return Layer(
        operator=first.kind,
        modules=tuple(dict.fromkeys(site.module for site in shared)),
        input=given,
        output=_union(ends) if ends else None,
        relu=relu and bool(ends),
        scales=tuple(map(float, weight_scales(weight, given.grid().scale))),
    )


def _union(all_of: list[Range]) -> Range:
    return Range(low=min(one.low for one in all_of), high=max(one.high for one in all_of))


def _digest(rows: Inputs) -> str:
    digest = hashlib.sha256()
    for name, array in rows.items():
        digest.update(f"{name} {array.dtype} {array.shape}|".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _below(plan: QuantPlan, path: str) -> list[str]:
    """Layers that ``--keep-float`` means by a weight's name, or by the path of a module or of one that holds it.
    UnknownName for what is none."""
    known = {name: (name, *layer.modules) for name, layer in plan.layers.items()}
    found = [name for name, paths in known.items() if any(f"{one}.".startswith(f"{path}.") for one in paths)]
    if not found and path not in plan.kept:
        raise UnknownName("layer", path, {*plan.layers, *(one for paths in known.values() for one in paths)})
    return found
