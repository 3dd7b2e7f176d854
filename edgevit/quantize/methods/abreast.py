"""A program in floats and in integers beside each other, node by node: a layer can be changed when it is met, and what
follows is given what it then makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.artifact.manifest import Array, BatchRange
from edgevit.export.capture import batches
from edgevit.quantize.simulate import Integers, Simulation
from edgevit.quantize.sites import Site

# site, then for each batch: what its integers are given, and what floats make of theirs -> the integers to go on with
Met = Callable[[Site, Sequence[Tensor], Sequence[Tensor]], Integers | None]


class Abreast:
    """One program on rows of its inputs."""

    def __init__(self, simulation: Simulation, rows: Mapping[str, Array], batch: BatchRange) -> None:
        given = list(batches(rows, batch))
        self.simulation, self.graph = simulation, simulation.sites.module.graph
        self.floats = [_Side(fx.Interpreter(simulation.sites.module), one) for one in given]
        self.integers = [_Side(simulation.interpreter(), one) for one in given]
        self.done = _last_uses(self.graph)

    def run(self, met: Met) -> None:
        """``met`` at every layer of the plan, in the order of the program."""
        sites = {site.node: site for site in self.simulation.sites.taken}
        with torch.no_grad():
            for node in self.graph.nodes:
                self._step(node, sites.get(node), met)

    def _step(self, node: fx.Node, site: Site | None, met: Met) -> None:
        for side in self.floats:
            side.step(node)
        if site is not None and node.name in self.simulation.layers:
            given = [side.values[site.input] for side in self.integers]
            found = met(site, given, [side.values[node] for side in self.floats])
            if found is not None:
                self.simulation.layers[node.name] = found
        for side in self.integers:
            side.step(node)
        for side in (*self.floats, *self.integers):
            for one in self.done.get(node, ()):
                side.values.pop(one, None)


class _Side:
    """One batch on its way through."""

    def __init__(self, interpreter: fx.Interpreter, arguments: tuple[Tensor, ...]) -> None:
        self.interpreter = interpreter
        interpreter.env, interpreter.args_iter = {}, iter(arguments)

    @property
    def values(self) -> dict[fx.Node, Any]:
        return self.interpreter.env

    def step(self, node: fx.Node) -> None:
        self.values[node] = self.interpreter.run_node(node)


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Node -> whose values nothing needs after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for one in node.all_input_nodes:
            last[one] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for one, node in last.items():
        found.setdefault(node, []).append(one)
    return found
