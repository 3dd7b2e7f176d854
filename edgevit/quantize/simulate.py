"""A plan computed eagerly, in the same integers as an engine's: what an int8 artifact is held against.

Sums of products of integers are exact, so that nothing but the rounding of activations can differ from an
engine. What is not in the plan is computed in float32 as the program says.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgevit.quantize.narrow import stored
from edgevit.quantize.plan import (
    LEVELS,
    WEIGHT_LEVELS,
    Encoding,
    Grid,
    Layer,
    QuantPlan,
    added,
    as_stored,
    sum_scales,
    weight_integers,
)
from edgevit.quantize.sites import Site, Sites

_EXACT = 1 << 24  # whole numbers up to it are float32 numbers
_BASE, _DIGIT = 16, 8  # a weight is 16 · high + low, neither beyond ±8
# Relative: what an engine's other order of operations makes of an activation, in float32; in float16 its rounding.
JITTER = {"float32": 1e-6, "float16": 2.0**-11}


class Integers:
    """One layer of a plan at one site: its weight and bias as integers."""

    def __init__(self, site: Site, sites: Sites, layer: Layer, encoding: Encoding) -> None:
        weight = sites.weights[site.name]
        values = torch.from_numpy(weight_integers(layer, weight.values))
        values = values if site.axis == 0 else values.transpose(0, 1)
        self.site, self.layer, self.grid = site, layer, layer.input.grid()
        self.digits = _digits(values, math.prod(weight.values.shape[1:]))
        self.bias = None if weight.bias is None else torch.from_numpy(added(layer, weight.bias, encoding))
        self.steps = torch.from_numpy(sum_scales(layer).astype(np.float64))

    def sums(self, x: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        """What the layer makes of float32 ``x``, in float32, before that is put on a grid of its own."""
        given = integers(x, self.grid)
        parts = [worth * _product(self.site, given, digit, arguments).double() for worth, digit in self.digits]
        total = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        if self.bias is not None:
            total = total + _along(self.site, self.bias, total)
        return (total * _along(self.site, self.steps, total)).float()


class Floats:
    """One layer of a plan of weights alone at one site: floats times the numbers that its weight is stored as, in sums
    that nothing is lost of."""

    def __init__(self, site: Site, sites: Sites, layer: Layer, encoding: Encoding) -> None:
        weight = sites.weights[site.name]
        values = torch.from_numpy(stored(layer, weight.values, encoding).values).double()
        self.site, self.layer = site, layer
        self.values = values if site.axis == 0 else values.transpose(0, 1)
        self.bias = None if weight.bias is None else torch.from_numpy(as_stored(weight.bias, encoding))

    def sums(self, x: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        """What the layer makes of float32 ``x``, in float32."""
        total = _product(self.site, x, self.values, arguments)
        return (total if self.bias is None else total + _along(self.site, self.bias, total)).float()


def _product(site: Site, x: Tensor, values: Tensor, arguments: tuple[Any, ...]) -> Tensor:
    place, weight, bias = site.places
    changed = list(arguments)
    changed[place], changed[weight] = x.to(values.dtype), values
    if bias is not None and bias < len(changed):
        changed[bias] = None if bias > place else values.new_zeros(())
    found: Tensor = site.node.target(*changed)  # type: ignore[operator]
    return found


def _along(site: Site, channels: Tensor, total: Tensor) -> Tensor:
    return channels.reshape(-1, *[1] * (total.ndim - 2)) if site.kind == "conv" else channels


def _digits(values: Tensor, terms: int) -> list[tuple[int, Tensor]]:
    """A weight of integers as (worth, digits), such that no sum of ``terms`` products leaves what float32 holds
    exactly: its products are several times as fast as those of float64."""
    if terms * LEVELS * WEIGHT_LEVELS <= _EXACT:
        return [(1, values.float().contiguous())]
    if terms * LEVELS * _DIGIT > _EXACT:
        return [(1, values.double().contiguous())]
    high = torch.round(values.float() / _BASE)
    return [(_BASE, high.contiguous()), (1, (values.float() - _BASE * high).contiguous())]


def integers(x: Tensor, grid: Grid) -> Tensor:
    """Float32 -> the integers of its grid less the zero point, as float32: rounded half to even, then clamped."""
    return (torch.round(x / grid.scale) + grid.zero_point).clamp(0, LEVELS) - grid.zero_point


def rounded(x: Tensor, grid: Grid) -> Tensor:
    """Float32 -> the nearest number of a grid."""
    return integers(x, grid) * grid.scale


class Simulation(nn.Module):
    """A program with the layers of a plan in integers; called as the program is.

    jitter  seed of numbers that move what each grid is given by ``JITTER``, None to leave it as it is; where an engine
            computes in float16, every result is then rounded to it
    kept    site's name in the program -> (input, result before its grid) of the last call, where ``keep`` asked for it
    """

    def __init__(self, sites: Sites, plan: QuantPlan, *, jitter: int | None = None, keep: bool = False) -> None:
        super().__init__()
        kind = Floats if plan.encoding.weights_alone else Integers
        self.layers: dict[str, Integers | Floats] = {
            site.node.name: kind(site, sites, plan.layers[site.name], plan.encoding)
            for site in sites.taken
            if site.name in plan.layers
        }
        self.kept: dict[str, tuple[Tensor, Tensor]] | None = {} if keep else None
        self.generator = None if jitter is None else torch.Generator().manual_seed(jitter)
        self.step = JITTER[plan.encoding.floats]
        self.halved = self.generator is not None and plan.encoding.floats == "float16"
        self.sites = sites
        self._running = self.interpreter()

    def forward(self, *arguments: Tensor) -> Any:
        return self._running.run(*arguments)

    def interpreter(self) -> fx.Interpreter:
        """Of the program, with whatever ``layers`` holds when it meets one."""
        return _Running(self.sites.module, self)

    def moved(self, x: Tensor) -> Tensor:
        """``x``, or a number next to each of it."""
        if self.generator is None:
            return x
        return x * (1 + self.step * (2 * torch.rand(x.shape, generator=self.generator) - 1))


class _Running(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, simulation: Simulation) -> None:
        super().__init__(module)
        self.simulation = simulation
        self.ends = {
            (one.site.output if one.layer.relu else one.site.node).name: one.layer.output.grid()
            for one in simulation.layers.values()
            if one.layer.output is not None
        }

    def run_node(self, n: fx.Node) -> Any:
        found = self._made(n)
        return _rounded_to_half(found) if self.simulation.halved else found

    def _made(self, n: fx.Node) -> Any:
        one = self.simulation.layers.get(n.name)
        if one is None:
            return self._end(n, super().run_node(n))
        arguments, _ = self.fetch_args_kwargs_from_env(n)
        x = arguments[one.site.places[0]]
        result = one.sums(self.simulation.moved(x), arguments)
        if self.simulation.kept is not None:
            self.simulation.kept[n.name] = (x.clone(), result.clone())  # what follows may write into either
        return self._end(n, result)

    def _end(self, n: fx.Node, result: Any) -> Any:
        """On the grid of its own, where the plan has one for it."""
        return rounded(self.simulation.moved(result), self.ends[n.name]) if n.name in self.ends else result


def _rounded_to_half(found: Any) -> Any:
    """As float16 holds it; what it cannot hold is left, since exporters keep that in float32."""
    if not isinstance(found, Tensor) or found.dtype is not torch.float32:
        return found
    half = found.half().float()
    return torch.where(torch.isfinite(half), half, found)
