"""When queries are issued: back to back, by Poisson arrivals, at a camera's pace, with gaps, in batches, for minutes.

The names and rules of single-stream, multi-stream, server and offline are MLPerf LoadGen's: a query's latency runs from
the moment it was due to the moment its last sample is done, so that waiting in the queue counts.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, Protocol, get_args

from edgevit.artifact.manifest import Array
from edgevit.errors import UnknownName, UsageError
from edgevit.profiles import statistics

Name = Literal["single-stream", "multi-stream", "server", "offline", "paced", "cool", "sustained"]
NAMES: tuple[Name, ...] = get_args(Name)
STREAMS = 8  # samples of a multi-stream query
GAP_S = 0.2  # between the queries of `cool`
SEED = 0

Feed = Mapping[str, Array]
Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What was asked for.

    qps, bound_ms  server: mean arrivals per second, and the latency that 99 % of the queries must keep
    fps            paced: frames per second
    minutes        sustained: how long
    streams        multi-stream: samples of a query
    """

    name: Name = "single-stream"
    qps: float | None = None
    bound_ms: float | None = None
    fps: float | None = None
    minutes: float | None = None
    streams: int = 1

    def __str__(self) -> str:
        """With its parameters, so that different ones are different scenarios: "server 40 qps ≤ 100 ms"."""
        details = {
            "multi-stream": f" of {self.streams}",
            "server": f" {self.qps or 0:g} qps" + (f" ≤ {self.bound_ms:g} ms" if self.bound_ms else ""),
            "paced": f" {self.fps or 0:g} fps",
            "sustained": f" {self.minutes or 0:g} min",
        }
        return self.name + details.get(self.name, "")

    def record(self) -> dict[str, Any]:
        return asdict(self)


def parse_scenario(
    name: str | None = None,
    *,
    qps: float | None = None,
    bound_ms: float | None = None,
    fps: float | None = None,
    minutes: float | None = None,
) -> Scenario:
    """A scenario from its name and parameters, which imply it when it is not named. UsageError for contradictions."""
    implied = "server" if qps or bound_ms else "paced" if fps else "sustained" if minutes else "single-stream"
    chosen = name or implied
    if chosen not in NAMES:
        raise UnknownName("scenario", chosen, NAMES)
    _check_given(chosen, {"qps": qps, "bound-ms": bound_ms, "fps": fps, "minutes": minutes})
    found: Name = next(known for known in NAMES if known == chosen)
    return Scenario(found, qps, bound_ms, fps, minutes, STREAMS if chosen == "multi-stream" else 1)


def _check_given(chosen: str, given: Mapping[str, float | None]) -> None:
    """UsageError unless ``given`` are parameters of the scenario, positive, and the one that it needs among them."""
    takes = {"server": {"qps", "bound-ms"}, "paced": {"fps"}, "sustained": {"minutes"}}.get(chosen, set())
    needs = {"server": "qps", "paced": "fps", "sustained": "minutes"}.get(chosen)
    for key, value in given.items():
        if value is not None and key not in takes:
            raise UsageError(
                f"--{key} does not belong to the scenario {chosen}", hint=f"leave --{key} or --scenario out"
            )
        if value is not None and value <= 0:
            raise UsageError(f"--{key} must be over 0, got {value:g}")
    if needs and given[needs] is None:
        raise UsageError(f"the scenario {chosen} needs --{needs}")


class Pace(Protocol):
    """Says when the next query is due: ns of the clock, from the start of the run and the end of the last query."""

    def due(self, begun: int, free: int) -> int: ...


class BackToBack:
    """The next query as soon as the last one is done."""

    def due(self, begun: int, free: int) -> int:
        return free


class Gap:
    """The next query ``gap_s`` after the last one is done."""

    def __init__(self, gap_s: float = GAP_S) -> None:
        self.gap_ns = int(gap_s * 1e9)

    def due(self, begun: int, free: int) -> int:
        return free + self.gap_ns


class Frames:
    """A camera: a frame every 1/``fps`` s; those that fall due while a query runs are dropped, and counted."""

    def __init__(self, fps: float) -> None:
        self.period_ns = 1e9 / fps
        self.last, self.dropped = -1, 0

    def due(self, begun: int, free: int) -> int:
        late = int(-(-(free - begun) // self.period_ns))  # the first frame that is not over yet
        number = max(self.last + 1, late)
        self.dropped += number - self.last - 1
        self.last = number
        return begun + round(number * self.period_ns)


class Poisson:
    """Independent arrivals, ``qps`` a second on average; queries wait in one queue, first come, first served."""

    def __init__(self, qps: float, seed: int = SEED) -> None:
        self.qps, self.rng, self.offset = qps, random.Random(seed), 0.0

    def due(self, begun: int, free: int) -> int:
        self.offset += self.rng.expovariate(self.qps)
        return begun + int(self.offset * 1e9)


def pace_of(scenario: Scenario) -> Pace:
    """How the queries of a scenario are issued."""
    if scenario.name == "server" and scenario.qps:
        return Poisson(scenario.qps)
    if scenario.name == "paced" and scenario.fps:
        return Frames(scenario.fps)
    return Gap() if scenario.name == "cool" else BackToBack()


@dataclass(frozen=True, slots=True)
class Timeline:
    """``samples`` are ns from due to done; ``elapsed_ns`` of the whole run; ``dropped`` frames."""

    samples: array[int]
    elapsed_ns: int
    dropped: int = 0


def drive(
    query: Callable[[Feed], object],
    feeds: Sequence[Feed],
    clock: Clock,
    enough: Callable[[int, int], bool],
    pace: Pace,
    wait: Callable[[int, Clock], None],
) -> Timeline:
    """Issue queries as ``pace`` says until ``enough(elapsed_ns, count)``; ``wait(due, clock)`` ends when it is due."""
    taken = array("q")
    begun = free = clock()
    while True:
        due = pace.due(begun, free)
        wait(due, clock)
        query(feeds[len(taken) % len(feeds)])
        free = clock()
        taken.append(free - due)
        if enough(free - begun, len(taken)):
            return Timeline(taken, free - begun, getattr(pace, "dropped", 0))


def wait_until(due: int, clock: Clock) -> None:
    """Sleep until ``due``, as LoadGen and a server that waits for its next request do.

    What waking up costs (a late timer, a core whose caches and clocks went down) is part of these scenarios' latency.
    """
    while (left := due - clock()) > 0:
        time.sleep(left / 1e9)


def calls_of_query(scenario: Scenario, batch: int) -> int:
    """Inferences of ``batch`` rows that one query takes."""
    return -(-scenario.streams // batch)


def several(infer: Callable[[Feed], object], feeds: Sequence[Feed], calls: int) -> Callable[[Feed], object]:
    """A query of ``calls`` inferences, one after another, over the feeds in rotation."""
    if calls == 1:
        return infer
    position = 0

    def query(_: Feed) -> None:
        nonlocal position
        for _number in range(calls):
            infer(feeds[position % len(feeds)])
            position += 1

    return query


def bound_sentence(samples_ms: Sequence[float], bound_ms: float) -> str:
    """Whether 99 % of the queries kept the bound, in words that do not claim more than the samples carry."""
    p99 = statistics.percentile(samples_ms, 0.99)
    if p99.estimate is None:
        return f"whether 99 % of the queries keep {bound_ms:g} ms cannot be said: {p99.reason}"
    kept = "is kept" if p99.estimate <= bound_ms else "is NOT kept"
    return f"the bound of {bound_ms:g} ms {kept}: p99 is {p99.estimate:.3g} ms"


def by_minute(samples_ms: Sequence[float]) -> list[dict[str, float | int]]:
    """p50 and raw p90 of each minute of back-to-back samples; a last minute of less than 10 s is left out."""
    return [
        {
            "minute": number,
            "p50_ms": median(part),
            "p90_ms": statistics.raw_percentile(sorted(part), 0.9),
            "count": len(part),
        }
        for number, part in enumerate(_minutes(samples_ms), 1)
        if part
    ]


def _minutes(samples_ms: Sequence[float]) -> list[list[float]]:
    """The samples that began in each minute; none in one that a single sample fills."""
    minutes: list[list[float]] = [[]]
    spent = 0.0
    for sample in samples_ms:
        minute = int(spent // 60e3)
        while len(minutes) <= minute:
            minutes.append([])
        minutes[minute].append(sample)
        spent += sample
    if len(minutes) > 1 and sum(minutes[-1]) < 10e3:
        minutes.pop()
    return minutes


def sustained_sentence(minutes: Sequence[Mapping[str, float | int]]) -> str:
    """How the last minute compares with the first."""
    first, last = minutes[0], minutes[-1]
    ratio = float(last["p50_ms"]) / float(first["p50_ms"])
    return f"minute {last['minute']} takes {ratio:.2f}× minute 1: p50 {first['p50_ms']:.3g} → {last['p50_ms']:.3g} ms"
