"""What every quantiser is given, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch.export import ExportedProgram

from edgevit.artifact.manifest import Array
from edgevit.export.base import Capture
from edgevit.export.legalise import decomposed
from edgevit.quantize.asked import ASKED, Quantizing
from edgevit.quantize.plan import QuantPlan, Weight
from edgevit.quantize.planning import kept_float, plan_int8
from edgevit.quantize.sites import Site, Sites, sites_of

INNER = 4  # one in so many rows of calibration judges what the others say


@dataclass(frozen=True)
class Start:
    """A model that is to be integers.

    rows   of calibration, by input
    data   where they are from
    asked  observer, and what stays float
    alone  whether weights alone are to be integers
    """

    capture: Capture
    rows: Mapping[str, Array]
    data: str
    asked: Quantizing = ASKED
    alone: bool = False

    def plain(self) -> Quantized:
        """Every layer that can be an integer and need not stay float, its weights as they are. Errors of ``plan_int8``
        and ``kept_float``."""
        sites = sites_of(self.capture.program, alone=self.alone)
        plan = plan_int8(self.capture, self.rows, self.data, self.asked.observer, sites)
        return Quantized(self.capture, sites, kept_float(plan, self.asked.keep_float))

    @property
    def inner(self) -> int:
        """Rows, the last of calibration, that judge what is found on those before them."""
        return len(next(iter(self.rows.values()))) // INNER


@dataclass(frozen=True)
class Quantized:
    """What a quantiser found.

    capture  computes the model, in floats: its own, or with weights that were scaled against each other
    sites    of the capture
    plan     of every layer that may be an integer
    weights  layer -> what its integers are of, where that is not the capture's weight; in float it keeps that
    folded   weights of the capture's program that are not the model's own, though it computes the same
    """

    capture: Capture
    sites: Sites
    plan: QuantPlan
    weights: Mapping[str, Weight] = field(default_factory=dict)
    folded: Mapping[str, Array] = field(default_factory=dict)

    @property
    def corrected(self) -> Sites:
        """The sites with the weights that integers are of."""
        return replace(self.sites, weights={**self.sites.weights, **self.weights})

    def named(self, quantizer: str) -> Quantized:
        """With what found it, and what it corrected, in the plan."""
        corrected = tuple(name for name in self.plan.layers if name in self.weights)
        return replace(self, plan=self.plan.model_copy(update={"quantizer": quantizer, "corrected": corrected}))

    def changeable(self, site: Site) -> bool:
        """Whether the layer's weight and bias are its own, and of the program's state."""
        own = [one for one in self.sites.taken if one.name == site.name or (site.bias and one.bias == site.bias)]
        state = self.capture.program.state_dict
        return len(own) == 1 and site.name in state and (site.bias is None or site.bias in state)

    def planned(self, plan: QuantPlan) -> Capture:
        """What an exporter of ``plan`` is given: the weights of its layers are those that its integers are of."""
        values: dict[str, Array] = {}
        for site in self.sites.taken:
            if site.name in plan.layers and site.name in self.weights:
                values |= _state(site, self.weights[site.name])
        program = with_values(self.capture.program, values) if values else self.capture.program
        return replace(self.capture, program=program, plan=plan)


class Method(Protocol):
    """A quantiser, as a row of ``edgevit.registry.QUANTIZERS`` or an entry point ``edgevit.quantizers`` names it."""

    def quantized(self, start: Start) -> Quantized:
        """Raises Unsupported and ExportFailed as ``plan_int8``."""
        ...


class Plain:
    """Ranges as the observer finds them, weights as they are."""

    def quantized(self, start: Start) -> Quantized:
        return start.plain()


def with_values(program: ExportedProgram, values: Mapping[str, Array]) -> ExportedProgram:
    """A copy that computes with other weights; names of the program's state."""
    found = decomposed(program, {})
    for name, array in values.items():
        found.state_dict[name] = torch.nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False)
    return found


def _state(site: Site, weight: Weight) -> dict[str, Array]:
    found = {site.name: weight.values if site.axis == 0 else weight.values.T}
    if site.bias is not None and weight.bias is not None:
        found[site.bias] = weight.bias
    return found
