"""What a monitor is, and the watch that reads all of them beside a run.

A monitor is one small class: it says whether it applies to this machine (``here``), reads a few numbers (``read``) and
says what a series of its own readings proves (``doubts``). What applies but cannot be read is listed as unmonitored,
never taken for clean.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from typing_extensions import Self

PERIOD_S = 0.4  # 2.5 Hz: often enough to see a throttle of half a second
Reading = dict[str, float]
Series = Sequence[Reading]

QUIET = "close other programs and run again"
COOL = "let it cool, improve cooling or power, and run again"


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a monitor saw: a verdict, the numbers that show it, and what to do."""

    verdict: Literal["UNSTABLE", "THROTTLED"]
    evidence: str
    advice: str


def throttled(evidence: str, advice: str = COOL) -> Doubt:
    return Doubt("THROTTLED", evidence, advice)


class Monitor(Protocol):
    """One kind of counters.

    name      as in a profile's ``monitors`` and ``unmonitored``
    period_s  the least time between two readings; 0 reads at every round of the watch
    """

    name: ClassVar[str]
    period_s: ClassVar[float]

    @classmethod
    def here(cls, root: Path) -> Self | None:
        """The monitor of the machine whose files are below ``root``; None where it does not apply."""
        ...

    def read(self) -> Reading | None:
        """The counters now; None where they cannot be read."""
        ...

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        """What readings in order, each with its time ``t_s``, prove against a run on ``cores`` usable cores."""
        ...


class Watch:
    """Reads all monitors every ``PERIOD_S`` on its own thread while the block runs, and once at either end.

    series       monitor name -> readings in order, each with its time ``t_s``; a monitor that ever failed is left out
    unmonitored  names of the monitors that could not be read, at the start or later: half a record proves nothing
    """

    def __init__(self, monitors: Sequence[Monitor], tick: Callable[[], None] | None = None) -> None:
        self.monitors, self.tick = monitors, tick
        self.series: dict[str, list[Reading]] = {monitor.name: [] for monitor in monitors}
        self.unmonitored: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def sample(self, *, last: bool = False) -> None:
        """One round of readings. Monitors that were read less than their period ago wait, but for the last round."""
        for monitor in self.monitors:
            if monitor.name not in self.unmonitored and (last or self._due(monitor)):
                self._read(monitor)
        if self.tick:
            self.tick()

    def _due(self, monitor: Monitor) -> bool:
        taken = self.series[monitor.name]
        return not taken or time.monotonic() - taken[-1]["t_s"] >= monitor.period_s

    def _read(self, monitor: Monitor) -> None:
        try:
            reading = monitor.read()
        except Exception:  # a plug-in's bug or a file in a new format must not end the watch of the others
            reading = None
        if reading is None:
            self.unmonitored.append(monitor.name)
            del self.series[monitor.name]
        else:
            self.series[monitor.name].append({"t_s": time.monotonic(), **reading})

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due + PERIOD_S - time.monotonic())):
            due = time.monotonic()
            self.sample()

    def __enter__(self) -> Watch:
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.sample(last=True)
