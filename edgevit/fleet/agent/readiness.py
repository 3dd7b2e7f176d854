"""What a node sees of the others while it waits to let go, and of itself while it pulls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgevit.fleet.bus.messages import PartFigures, Placement
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Bus

SERVING_S = 2.0  # since the last image, that count as serving
LOOK_S = 0.25


class Readiness:
    """Whether all of a placement answers, as far as tokens tell."""

    def __init__(self, bus: Bus, names: Names, placement: Placement) -> None:
        self.placement = placement
        self._names = names
        self._lock = threading.Lock()
        self._there: set[str] = set()
        self._watchers = [
            bus.watch(pattern, self._change) for pattern in (names.ready(placement.revision), names.live())
        ]

    def _change(self, key: str, there: bool) -> None:
        with self._lock:
            (self._there.add if there else self._there.discard)(key)

    def whole(self, here: str, mine: set[str]) -> bool:
        """Whether every part answers on a node that is to hold it, and on all of those that are up. ``mine`` are the
        parts that are loaded on this node, ``here``."""
        with self._lock:
            steps = [self._names.steps(key) for key in self._there]
        ready = {(step[3], step[2]) for step in steps if step[0] == "ready"} | {(here, part) for part in mine}
        live = {step[1] for step in steps if step[0] == "live"} | {here}
        wanted = {(node, part) for node, parts in self.placement.nodes.items() for part in parts}
        answering = {part for _, part in wanted & ready}
        return all(part in answering and (node not in live or (node, part) in ready) for node, part in wanted)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()


class Traffic:
    """Whether a node was asked anything in the last seconds, by the figures of its parts."""

    def __init__(self, figures: Callable[[], tuple[PartFigures, ...]]) -> None:
        self._figures = figures
        self._looked, self._until, self._seen = 0.0, 0.0, 0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now >= self._looked + LOOK_S:
            self._looked = now
            seen = sum(one.answered + one.busy + one.late + one.failed for one in self._figures())
            if seen > self._seen:
                self._until = now + SERVING_S
            self._seen = seen
        return now < self._until
