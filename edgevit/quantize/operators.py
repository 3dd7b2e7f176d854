"""The operators of integers that an artifact's file has, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.errors import BadArtifact
from edgevit.quantize.parts import computed_all
from edgevit.quantize.plan import QuantPlan


@dataclass(frozen=True)
class Mark:
    """Which output channels of which layer an operator computes; ``added`` where the next one adds its bias."""

    name: str
    start: int
    stop: int
    added: bool

    def text(self) -> str:
        return json.dumps([self.name, self.start, self.stop, self.added])

    @classmethod
    def of(cls, text: str) -> Mark:
        """BadArtifact for what no mark's text is."""
        try:
            name, start, stop, added = json.loads(text)
            return cls(str(name), int(start), int(stop), bool(added))
        except (ValueError, TypeError) as exc:
            raise wrong(f"an operator is marked {text[:80]!r}, which names no layer") from exc


@dataclass(frozen=True)
class Operator:
    """One operator of integers, and the float values around it and what makes its operands integers."""

    mark: Mark
    node: str
    kind: str
    x: str
    y: str


def require_whole(operators: Sequence[Operator], plan: QuantPlan) -> None:
    """BadArtifact unless they compute all of every layer, each channel as often as the others."""
    for name, layer in plan.layers.items():
        cuts = [(one.mark.start, one.mark.stop) for one in operators if one.mark.name == name]
        if not computed_all(cuts, len(layer.scales), uses=sum(start == 0 for start, _ in cuts)):
            raise wrong(f"{name} is an integer in the plan, and the graph does not compute all of it so")


def wrong(what: str) -> BadArtifact:
    """The error of a file that says something else than its plan."""
    return BadArtifact(f"the graph is not what its plan says: {what}", hint="export anew")
