"""What a fleet says to an image, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.bundle.embedded import Fused


@dataclass(frozen=True)
class PartTiming:
    """Where a part's time went, in milliseconds: waiting on the node, computing there, and on the way."""

    part: str
    node: str
    queue_ms: float
    compute_ms: float
    network_ms: float
    hedged: bool = False

    def record(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class FleetAnswer(Fused):
    """An answer, which node gave which part of it, and the trace id (32 hex digits) that their logs name it by.

    more  of a single artifact, the outputs that follow the first one, which is ``logits``
    """

    timings: tuple[PartTiming, ...] = ()
    trace: str = ""
    more: tuple[Array, ...] = ()

    def by_name(self, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
        """All of them under the names of a single artifact's, or of a bundle's one."""
        return {spec.name: array for spec, array in zip(outputs, (self.logits, *self.more), strict=True)}
