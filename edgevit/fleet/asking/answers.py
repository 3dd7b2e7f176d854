"""What a fleet says to an image, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """An answer, which node gave which part of it, and the trace id (32 hex digits) that their logs name it by."""

    timings: tuple[PartTiming, ...] = ()
    trace: str = ""
