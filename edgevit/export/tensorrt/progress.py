"""The builder's nested phases as one fraction that only grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgevit.export.base import Progress

INTERVAL_S = 0.2  # a large network reports tens of thousands of steps
ELAPSED_S = 5  # in steps of so many seconds: every new text is a new line where there is no terminal


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0


class Phases:
    """Open phases, outermost first. A phase is one step of its parent, and is done when it finishes."""

    def __init__(self) -> None:
        self._open: list[_Phase] = []
        self._reached = 0.0

    def start(self, name: str, steps: int) -> None:
        self._open.append(_Phase(name, max(steps, 1)))

    def step(self, name: str, step: int) -> None:
        """``step``, counted from 0, of the innermost open phase called ``name`` is done."""
        for phase in reversed(self._open):
            if phase.name == name:
                phase.done = min(step + 1, phase.steps)
                return

    def finish(self, name: str) -> None:
        """Close the innermost phase called ``name`` and whatever is still open inside it."""
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index].name == name:
                del self._open[index:]
                return

    @property
    def stage(self) -> str:
        return self._open[-1].name if self._open else "done"

    @property
    def fraction(self) -> float:
        """Done part of the outermost phase, the open inner ones counted in."""
        inner = 0.0
        for phase in reversed(self._open):
            inner = min((phase.done + inner) / phase.steps, 1.0)
        self._reached = max(self._reached, inner)
        return self._reached


def make_monitor(trt: Any, report: Progress, clock: Callable[[], float] = time.monotonic) -> Any:
    """An ``IProgressMonitor`` that reports phase and fraction, at most every ``INTERVAL_S`` within one phase."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases, self.begun, self.last = Phases(), clock(), 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, num_steps)
            self.say()

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            if clock() - self.last >= INTERVAL_S:
                self.say()
            return True  # go on building

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

        def say(self) -> None:
            self.last = clock()
            spent = int((self.last - self.begun) / ELAPSED_S) * ELAPSED_S
            elapsed = f", {spent} s" if spent else ""
            report(f"{self.phases.stage.lower()}{elapsed}", self.phases.fraction)

    return Monitor()
