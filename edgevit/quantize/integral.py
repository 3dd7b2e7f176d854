"""A prepared model in integers: the plan that it begins with, what it costs, and what its artifacts have to compute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from edgevit import registry
from edgevit.artifact.goodness import IntegerReport, Loss
from edgevit.artifact.manifest import Array
from edgevit.artifact.shelf import Named, error_of_rows
from edgevit.errors import ParityFailed
from edgevit.export.base import Capture, Progress
from edgevit.export.prepared import Levels, Prepared, Sized, worst
from edgevit.precisions import tolerance_for
from edgevit.quantize.asked import QUANTIZER, Quantizing
from edgevit.quantize.calibration import Calibrating
from edgevit.quantize.gate import Gate
from edgevit.quantize.loss import Scales
from edgevit.quantize.methods.base import Method, Quantized, Start
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.planning import kept_float
from edgevit.quantize.stored import Kept
from edgevit.quantize.trial import Trial

RANKED_ROWS = 16  # of calibration, that layers are ranked on
_FLOATS = "fp32"


@dataclass
class Integral:
    """Of one prepared model, whatever the target.

    capture      what was captured, of the float model
    calibrating  rows of its own
    scales       what the loss is weighed on
    kept         integers that the model's checkpoint has already
    alone        whether weights alone are to be integers
    """

    capture: Capture
    asked: Quantizing
    calibrating: Calibrating
    scales: Scales
    kept: Kept | None = None
    alone: bool = False

    @cached_property
    def found(self) -> Quantized:
        """What the quantiser makes of it, or made of it before."""
        if self.kept is not None:
            found = self.kept.onto(self.capture)
            return replace(found, plan=kept_float(found.plan, self.asked.keep_float))
        start = Start(self.capture, self.calibrating.inputs, self.calibrating.data, self.asked, self.alone)
        if self.alone:
            return start.plain()
        name = self.asked.quantizer or QUANTIZER
        method: Method = registry.row("quantizer", name).load()()
        return method.quantized(start).named(name)

    @cached_property
    def trial(self) -> Trial:
        return Trial(self.found.capture, self.found.corrected)

    @cached_property
    def gate(self) -> Gate:
        rows = {name: array[:RANKED_ROWS] for name, array in self.calibrating.inputs.items()}
        return Gate(self.trial, self._loss, rows, self.asked.max_drop)

    @cached_property
    def plan(self) -> QuantPlan:
        """With every layer that may be an integer, but for those that were asked to stay float."""
        return self.found.plan

    def only(self, plan: QuantPlan) -> Quantized:
        """What was found, with what is left of its plan."""
        weights = {name: one for name, one in self.found.weights.items() if name in plan.layers}
        return replace(self.found, plan=plan, weights=weights)

    def planned(self, before: Prepared, plan: QuantPlan) -> Prepared:
        """``before`` for an exporter of the plan."""
        return replace(before, capture=self.found.planned(plan))

    def prepared(self, before: Prepared, plan: QuantPlan) -> Prepared:
        """``before`` with what integers answer in place of what floats do."""
        reference = self.trial.answers(plan, before.rows.inputs, before.reference)
        sized = {
            size: Sized(one.inputs, self.trial.answers(plan, one.inputs, one.reference))
            for size, one in before.sized.items()
        }
        all_of = [Sized(before.rows.inputs, reference), *sized.values()]

        def level(precision: str, keep_fp32: Collection[str]) -> Levels:
            return worst(Levels(self.trial.noise(plan, one.inputs, one.reference)) for one in all_of)

        return replace(self.planned(before, plan), reference=reference, sized=sized, noise=level)

    def gated(self, plan: QuantPlan, say: Progress) -> tuple[QuantPlan, Loss]:
        """The plan, or what is left of it when ``--max-drop`` holds, and its loss. GateMissed."""
        say("what the integers cost", None)
        return self.gate.held(plan, say)

    def report(self, plan: QuantPlan, loss: Loss, operators: int) -> IntegerReport:
        """For the manifest."""
        restored = {name: said for name, said in self.gate.restored.items() if name in plan.kept}
        layers, kept = len(plan.layers), len(plan.kept)
        return IntegerReport(layers=layers, kept=kept, operators=operators, loss=loss, restored=restored)

    def layers(self, plan: QuantPlan, inputs: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Weight -> what its operator is given, and makes of it, on the first rows."""
        return self.trial.layers(plan, inputs)

    def _loss(self, plan: QuantPlan) -> Loss:
        return self.scales.weigh(partial(self._answered, None), partial(self._answered, plan))

    def _answered(self, plan: QuantPlan | None, rows: Mapping[str, Array]) -> Named:
        return self.trial.run(plan, rows).outputs

    def require_captured(self, before: Prepared) -> None:
        """ParityFailed unless the program that integers are of computes the model, in whose place it is put."""
        want = before.reference.whole.outputs
        levels = before.noise(_FLOATS, ()).outputs
        got = self.trial.run(None, before.rows.inputs).outputs
        for name, level in levels.items():
            error, bound = error_of_rows(got[name], want[name]), tolerance_for(level.error, _FLOATS)
            if level.margin is None and level.free is None and error > bound:
                raise ParityFailed(
                    f"the captured program does not compute the model: {name} differs by {error:.1e}, more than "
                    f"{bound:.1e}, before anything is an integer",
                    hint="export it with --precision fp32, and report the model",
                )
