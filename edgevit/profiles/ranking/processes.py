"""The other side of ``turns``: processes that are held open together, asked one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgevit import worker
from edgevit.cpu import allowed_cores
from edgevit.errors import EdgeVitError, WorkerFailed
from edgevit.profiles import environment
from edgevit.profiles.interleave import Schedule, Turn
from edgevit.profiles.monitors import CpuTime, others_share

OPEN_TIMEOUT_S, TURN_TIMEOUT_S = 600.0, 300.0
ROOM = 1.5  # of what the largest model holds has to be free before another one is opened


class Lost(Exception):
    """The process of one entrant failed. ``index`` says whose, ``error`` why."""

    def __init__(self, index: int, error: EdgeVitError) -> None:
        super().__init__(str(error))
        self.index, self.error = index, error


@dataclass
class Processes:
    """Opened entrants by index. ``facts`` is what each said once it was open: provider, threads, call_s, …"""

    talks: dict[int, worker.Talk] = field(default_factory=dict)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)

    def turn(self, index: int, schedule: Schedule) -> Turn:
        """Takes a turn of one entrant: the ms of its calls."""
        question = {"schedule": asdict(schedule)}
        return partial(self._ask, index, question)

    def check(self) -> None:
        """Lost for an entrant whose outputs are no numbers any more."""
        for index in self.talks:
            self._ask(index, {"check": True})

    def _ask(self, index: int, question: Mapping[str, Any]) -> tuple[float, ...]:
        try:
            answer = self.talks[index].ask(question, timeout=TURN_TIMEOUT_S)
        except EdgeVitError as error:
            raise Lost(index, error) from error
        self.cpu_s[index] = answer["cpu_s"]
        return tuple(answer["ms"])

    @property
    def held_bytes(self) -> int | None:
        """What the open processes hold, where this system tells."""
        held = [facts["resident_bytes"] for facts in self.facts.values()]
        return None if None in held else sum(held)

    def own_s(self) -> float:
        """CPU seconds of this process and of all that are open."""
        return time.process_time() + sum(self.cpu_s.values())


@contextmanager
def opened(payloads: Mapping[int, Mapping[str, Any]], order: Sequence[int]) -> Iterator[Processes]:
    """The entrants of ``order``, opened one after another; gone after the block. Raises Lost."""
    found = Processes()
    with ExitStack() as stack:
        for index in order:
            try:
                _check_room(found)
                found.talks[index] = stack.enter_context(
                    worker.talk("edgevit.profiles.ranking.turns:run", dict(payloads[index]))
                )
                found.facts[index] = found.talks[index].hear(timeout=OPEN_TIMEOUT_S)
            except EdgeVitError as error:
                raise Lost(index, error) from error
            found.cpu_s[index] = found.facts[index]["cpu_s"]
        yield found


def _check_room(found: Processes) -> None:
    """WorkerFailed where another model might not fit: the system would kill a process, and not always this one."""
    held = [facts["resident_bytes"] or 0 for facts in found.facts.values()]
    free = available_memory()
    if held and free is not None and free < ROOM * max(held):
        raise WorkerFailed(
            f"there is no memory to hold it open beside {len(held)} others: they hold {sum(held) / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free",
            hint="compare fewer at once, or close other programs",
        )


def available_memory() -> int | None:
    """Bytes that programs may still take on this machine; None where it does not tell."""
    found = environment.field(environment.read(Path("/proc/meminfo")), "MemAvailable")
    return int(found.split()[0]) * 1024 if found else None


class Others:
    """How much of the cores other programs took while the block ran: ``share``, or None where it cannot be read."""

    def __init__(self, processes: Processes) -> None:
        self.counter = CpuTime(own=processes.own_s)
        self.share: float | None = None
        self.readings: list[dict[str, float]] = []

    def __enter__(self) -> Others:
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._read()
        cores = len(allowed_cores())
        shares = others_share(self.readings, cores)
        self.share = None if shares is None else shares[0] / cores

    def _read(self) -> None:
        if reading := self.counter.read():
            self.readings.append({"t_s": time.monotonic(), **reading})
