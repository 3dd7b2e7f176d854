"""An inference that does not end by itself is ended: a graph may hold a loop of 10^18 turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgevit.artifact.manifest import Manifest

SHORTEST_S, LONGEST_S = 60.0, 600.0
SLOWEST = 1e8  # multiply-accumulates a second: a hundredth of what a small board does
_LOOKS = 12  # while the time of one inference runs out


def limit_of(manifest: Manifest) -> float:
    """Seconds that an inference of the largest batch may take on the slowest device; what a manifest claims is believed
    up to ten minutes."""
    return min(max(SHORTEST_S, manifest.model.macs * manifest.batch.max / SLOWEST), LONGEST_S)


class Limit:
    """Calls ``stop`` when an inference between ``began`` and ``ended`` takes longer than ``seconds``. One thread that
    sleeps from the first inference on: a timer for each would cost as much as a small model."""

    def __init__(self, seconds: float, stop: Callable[[], None]) -> None:
        self.seconds, self.exceeded = seconds, False
        self._stop = stop
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def began(self) -> None:
        self._since = time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="edgevit-limit", daemon=True)
            self._thread.start()

    def ended(self) -> None:
        self._since = None

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self.seconds / _LOOKS):
            since = self._since
            if since is not None and time.monotonic() - since > self.seconds:
                self.exceeded = True
                self._stop()
