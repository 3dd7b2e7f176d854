"""``--max-drop``: the layers that harm most go back to float, one at a time, until integers cost no more than that.

Which layers these are is asked of calibration rows, how much is lost of images that no choice was made on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgevit.artifact.goodness import Loss
from edgevit.errors import GateMissed
from edgevit.export.base import Progress
from edgevit.quantize.loss import Apart
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.trial import Inputs, Trial

BYTES_SAVED = 3  # of each weight: one in place of four


@dataclass
class Gate:
    """Of one model.

    weigh     a plan's loss
    rows      of calibration, that layers are ranked on
    restored  layer -> what putting it back gave
    weighed   hash of a plan -> its loss: what is left of a plan is built, and comes here again
    """

    trial: Trial
    weigh: Callable[[QuantPlan], Loss]
    rows: Inputs
    allowed: float | None
    restored: dict[str, str] = field(default_factory=dict)
    weighed: dict[str, Loss] = field(default_factory=dict)

    def held(self, plan: QuantPlan, say: Progress) -> tuple[QuantPlan, Loss]:
        """The plan, or what is left of it when it holds. GateMissed where no layer could stay."""
        loss = self._loss(plan)
        if self.allowed is None or loss.drop <= self.allowed:
            return plan, loss
        say("which layers cost most", None)
        first, harms = loss, self._harms(plan)
        for name, harm in harms.items():
            if len(plan.layers) == 1:
                break
            say(f"back to float: {name}", None)
            plan, before = plan.without({name: f"--max-drop {self.allowed:g}: alone it costs {harm:.2%}"}), loss
            loss = self._loss(plan)
            self.restored[name] = self._sentence(name, harm, before, loss)
            if loss.drop <= self.allowed:
                return plan, loss
        raise GateMissed(
            f"integers cost {first.drop:.2f} points ({first.sentence()}), {loss.drop:.2f} with all layers but one in "
            f"float; --max-drop allows {self.allowed:g}",
            hint="allow more, give more or other calibration images, or use --precision fp16",
        )

    def _loss(self, plan: QuantPlan) -> Loss:
        known = plan.sha256()
        if known not in self.weighed:
            self.weighed[known] = self.weigh(plan)
        return self.weighed[known]

    def _harms(self, plan: QuantPlan) -> dict[str, float]:
        """Layer -> how far outputs move when it alone is an integer, as a share of them; the largest first."""
        want = self.trial.run(None, self.rows).outputs
        found = {}
        for name in plan.layers:
            alone = plan.without({other: "" for other in plan.layers if other != name})
            apart = Apart()
            apart.take(want, self.trial.run(alone, self.rows).outputs, None, None)
            found[name] = apart.rms
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    def _sentence(self, name: str, harm: float, before: Loss, after: Loss) -> str:
        values = self.trial.sites.weights[name].values
        return (
            f"alone it moves the outputs by {harm:.2%} (rms); in float the loss goes from {before.drop:.2f} to "
            f"{after.drop:.2f} points, and {values.size * BYTES_SAVED:,} bytes are not saved"
        )
