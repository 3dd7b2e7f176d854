"""What a captured program computes in the integers of a plan, on rows of its inputs, and how steadily."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from edgevit.artifact.manifest import Array
from edgevit.export.base import Capture
from edgevit.export.noise import noises
from edgevit.export.prepared import Answers, Noise, Run
from edgevit.export.rows import take_rows
from edgevit.export.runs import CHUNK, gathered_run, run_of
from edgevit.models.eager.margins import Margins
from edgevit.models.eager.outputs import leaves
from edgevit.precisions import largest, whole_numbers
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.simulate import Simulation
from edgevit.quantize.sites import Sites, sites_of

Inputs = Mapping[str, Array]
SEEDS = (0, 1, 2)  # of the jitter


class Trial:
    """One capture and its sites, with the weights that integers are of."""

    def __init__(self, capture: Capture, sites: Sites | None = None) -> None:
        self.capture, self.sites = capture, sites or sites_of(capture.program)

    def run(self, plan: QuantPlan | None, inputs: Inputs, *, jitter: int | None = None, decides: bool = False) -> Run:
        """All rows; without a plan the program as it is, in float32. ``decides`` asks for margins."""
        module = self.sites.module if plan is None else Simulation(self.sites, plan, jitter=jitter)
        return gathered_run(self._parts(module, inputs, decides=decides), len(next(iter(inputs.values()))))

    def answers(self, plan: QuantPlan, inputs: Inputs, before: Answers) -> Answers:
        """What an artifact in the integers of ``plan`` has to give, in place of the float model's answers."""
        decides, head = bool(before.whole.margins), before.golden.rows
        whole = self.run(plan, inputs, decides=decides)
        golden = self.run(plan, {name: rows[:head] for name, rows in inputs.items()}, decides=decides)
        return replace(before, whole=whole, golden=golden, group=self.group, computed="float32")

    def noise(self, plan: QuantPlan, inputs: Inputs, answers: Answers) -> dict[str, Noise]:
        """How far outputs move when what every grid is given moves by as much as the order of float32 sums makes of it:
        of all rows, and of the median one."""
        decides = bool(answers.whole.margins)
        moved = [self.run(plan, inputs, jitter=seed, decides=decides) for seed in SEEDS]
        found = noises([iter([one]) for one in moved], answers.whole)
        return {
            name: noise if _decided(answers.whole, name) else replace(noise, median=_median(moved, answers.whole, name))
            for name, noise in found.items()
        }

    def layers(self, plan: QuantPlan, inputs: Inputs) -> dict[str, tuple[Array, Array]]:
        """Weight -> what the first operator of it is given, and what it makes of that, on the first rows; "WEIGHT#2" ->
        that of the second one."""
        simulation = Simulation(self.sites, plan, keep=True)
        for _ in self._parts(simulation, inputs, decides=False):
            break
        if simulation.kept is None:
            raise ValueError("nothing was kept")
        found: dict[str, tuple[Array, Array]] = {}
        uses: Counter[str] = Counter()
        for site in self.sites.taken:
            if site.node.name in simulation.kept:
                uses[site.name] += 1
                x, y = simulation.kept[site.node.name]
                name = site.name if uses[site.name] == 1 else f"{site.name}#{uses[site.name]}"
                found[name] = x.numpy(), y.numpy()
        return found

    @property
    def group(self) -> int:
        """Rows of a call."""
        batch = self.capture.batch
        return min(max(batch.min, CHUNK), batch.max)

    def _parts(self, module: torch.nn.Module, inputs: Inputs, *, decides: bool) -> Iterator[Run]:
        size, count = self.group, len(next(iter(inputs.values())))
        for start in range(0, count, size):
            arguments = [torch.from_numpy(take_rows(array[start:], size)) for array in inputs.values()]
            with torch.no_grad(), Margins() if decides else nullcontext() as margins:
                given = [leaf for leaf in leaves(module(*arguments)) if isinstance(leaf, torch.Tensor)]
                found = dict(zip((spec.name for spec in self.capture.outputs), given, strict=True))
            yield run_of(found, margins).head(count - start)


def _decided(whole: Run, name: str) -> bool:
    """Whether an output's values were chosen, so that its error says nothing row by row."""
    return name in whole.margins or all(whole_numbers(row) for row in whole.outputs[name])


def _median(moved: list[Run], whole: Run, name: str) -> float:
    want = whole.outputs[name]
    scale = max(map(largest, want)) or 1.0
    errors = [[largest(got - due) / scale for got, due in zip(one.outputs[name], want, strict=True)] for one in moved]
    return float(np.median(errors, axis=1).max())
