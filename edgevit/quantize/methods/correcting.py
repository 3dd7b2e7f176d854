"""Weights that make up for the errors of integers, layer by layer in the order of the program: each is fitted to what
it is really given, by corrected layers before it, and kept where rows that it was not fitted to are nearer to floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from edgevit.quantize.loss import Apart
from edgevit.quantize.methods.abreast import Abreast
from edgevit.quantize.methods.base import Quantized, Start
from edgevit.quantize.methods.columns import MOST, Sums, columns, groups_of, matrices, results, some, weight_of
from edgevit.quantize.plan import Array, Layer, Weight, weight_integers, weight_scales
from edgevit.quantize.simulate import Integers, Simulation, rounded
from edgevit.quantize.sites import Site
from edgevit.quantize.trial import Trial


@dataclass(frozen=True)
class Fitting:
    """One layer that is to be corrected.

    fit, inner  sums of rows to fit to, and of those that judge
    """

    site: Site
    layer: Layer
    weight: Weight
    fit: Sums
    inner: Sums

    @property
    def biased(self) -> bool:
        return self.weight.bias is not None

    def changed(self, change: Tensor) -> Weight:
        """The weight with ``change`` (G, K+1, O/G) added to it and its bias."""
        values = self.weight.values
        moved = weight_of(values, matrices(self.site, values) + change[:, :-1])
        bias = None if self.weight.bias is None else self.weight.bias + change[:, -1].reshape(-1).float().numpy()
        return Weight(moved, bias)

    def layered(self, weight: Weight) -> Layer:
        """The layer with the scales of another weight."""
        scales = weight_scales(weight, self.layer.input.grid().scale)
        return self.layer.model_copy(update={"scales": tuple(map(float, scales))})

    def error(self, weight: Weight) -> float:
        """How far the layer's integers of ``weight`` are from its floats on inner rows: a sum of squares."""
        held = integral_values(self.layered(weight), weight.values)
        change = torch.zeros_like(self.inner.cross)
        change[:, :-1] = matrices(self.site, held) - matrices(self.site, self.weight.values)
        if self.weight.bias is not None and weight.bias is not None:
            moved = torch.from_numpy(weight.bias.astype(np.float64) - self.weight.bias)
            change[:, -1] = moved.reshape(change.shape[0], -1)
        return float(self.inner.error(change).sum())


def _apart(start: Start, found: Quantized) -> float:
    """How far the outputs of integers are from the floats' on inner rows."""
    rows = {name: array[-start.inner :] for name, array in start.rows.items()}
    trial, apart = Trial(found.capture, found.corrected), Apart()
    apart.take(trial.run(None, rows).outputs, trial.run(found.plan, rows).outputs, None, None)
    return apart.rms


TOGETHER = 4096  # positions in one product
Candidates = Callable[[Fitting], Iterator[Weight]]


def integral_values(layer: Layer, values: Array) -> Array:
    """A weight as its integers hold it."""
    steps = np.array(layer.scales, np.float32).reshape(-1, *[1] * (values.ndim - 1))
    found: Array = weight_integers(layer, values) * steps
    return found


def corrected(start: Start, found: Quantized, candidates: Candidates) -> Quantized:
    """``found`` with the best candidate for every layer, where one is better than the weight as it is."""
    correcting = Correcting(start, found, candidates)
    correcting.run()
    made = correcting.found()
    return made if _apart(start, made) < _apart(start, found) else found


class Missing:
    """What a layer's results lack where it is given numbers of its grid, in two parts, a few thousand positions at a
    time."""

    def __init__(self, site: Site, layer: Layer, weight: Weight) -> None:
        self.site, self.grid, self.values = site, layer.input.grid(), weight.values
        groups, inputs, outputs = groups_of(site, weight.values), weight.values[0].size, len(weight.values)
        self.matrix = matrices(site, weight.values).float()
        self.bias = torch.zeros(1) if weight.bias is None else torch.from_numpy(weight.bias).reshape(groups, 1, -1)
        self.found = [Sums.empty(groups, inputs, outputs // groups) for _ in range(2)]
        self.waiting: list[list[tuple[Tensor, Tensor]]] = [[], []]

    def take(self, part: int, x: Tensor, y: Tensor, whole: int) -> None:
        """Some rows of ``whole`` that there are: the layer's input, and its result in floats."""
        if not len(x):
            return
        a, due = columns(self.site, self.values, rounded(x, self.grid)), results(self.site, self.values, y)
        groups, count, inputs = a.shape
        share = MOST / (groups * count * whole / len(x) * inputs**2)
        if share < 1:
            places = torch.from_numpy(some(count, share, seed=self.found[part].count))
            a, due = a[:, places], due[:, places]
        self.waiting[part].append((a, due - self.bias))
        if sum(one.shape[1] for one, _ in self.waiting[part]) >= TOGETHER:
            self._add(part)

    def sums(self, part: int) -> Sums:
        self._add(part)
        return self.found[part]

    def _add(self, part: int) -> None:
        if self.waiting[part]:
            a, due = (torch.cat(parts, 1) for parts in zip(*self.waiting[part], strict=True))
            self.found[part].take(a, due - a @ self.matrix)
            self.waiting[part].clear()


@dataclass
class Correcting:
    """One way through a model.

    weights, layers  what was changed so far
    """

    start: Start
    before: Quantized
    candidates: Candidates
    weights: dict[str, Weight] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)

    def run(self) -> None:
        simulation = Simulation(self.before.corrected, self.before.plan)
        Abreast(simulation, self.start.rows, self.start.capture.batch).run(self.met)

    def found(self) -> Quantized:
        layers = {**self.before.plan.layers, **self.layers}
        plan = self.before.plan.model_copy(update={"layers": layers})
        return replace(self.before, plan=plan, weights={**self.before.weights, **self.weights})

    def met(self, site: Site, given: Sequence[Tensor], due: Sequence[Tensor]) -> Integers | None:
        """The layer's integers, where it could be corrected."""
        if not self.before.changeable(site):
            return None
        sites = self.before.corrected
        weight, (fit, inner) = sites.weights[site.name], self.sums(site, given, due)
        fitting = Fitting(site, self.before.plan.layers[site.name], weight, fit, inner)
        tried = [weight, *self.candidates(fitting)]
        best = min(tried, key=fitting.error)
        if best is weight:
            return None
        self.weights[site.name], self.layers[site.name] = best, fitting.layered(best)
        return Integers(
            site, replace(sites, weights={site.name: best}), self.layers[site.name], self.before.plan.encoding
        )

    def sums(self, site: Site, given: Sequence[Tensor], due: Sequence[Tensor]) -> tuple[Sums, Sums]:
        """Of the rows before the inner ones, and of these."""
        layer, weight = self.before.plan.layers[site.name], self.before.corrected.weights[site.name]
        missing, whole = Missing(site, layer, weight), len(next(iter(self.start.rows.values())))
        first_inner, at = whole - self.start.inner, 0
        for x, y in zip(given, due, strict=True):
            x, y = x[: whole - at], y[: whole - at]
            cut = max(0, first_inner - at)
            missing.take(0, x[:cut], y[:cut], whole)
            missing.take(1, x[cut:], y[cut:], whole)
            at += len(x)
        return missing.sums(0), missing.sums(1)
