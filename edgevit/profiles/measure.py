"""The worker's side of a profile: open, first inference, warm-up until steady, then samples. No judgement here."""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgevit import worker
from edgevit.artifact import Array, Artifact
from edgevit.profiles.environment import field, read
from edgevit.profiles.monitors import Watch, standard_monitors
from edgevit.runtimes.base import open_session

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. Sampling ends when both ``min_s`` and ``min_count`` are reached, or at ``limit_s``.

    Warm-up lasts at least ``warm_s`` and ``warm_runs`` runs, until the medians of 3 consecutive windows (each at least
    ``window_s`` and ``window_runs`` runs) lie within 1 % of each other, at most ``warm_cap_s``.
    """

    min_s: float = 3.0
    min_count: int = 64
    limit_s: float = 120.0
    warm_s: float = 0.5
    warm_runs: int = 10
    warm_cap_s: float = 10.0
    window_s: float = 0.15
    window_runs: int = 10


def sample(
    infer: Infer, feeds: Sequence[Mapping[str, Array]], clock: Clock, enough: Callable[[int, int], bool]
) -> array[int]:
    """Nanoseconds of each call, rotating through ``feeds``, until ``enough(elapsed_ns, count)``.

    Nothing is allocated per call but the clock's own integers; the caller has switched the garbage collector off.
    """
    taken = array("q")
    append, rows = taken.append, len(feeds)
    begun = clock()
    while True:
        feed = feeds[len(taken) % rows]
        start = clock()
        infer(feed)
        end = clock()
        append(end - start)
        if enough(end - begun, len(taken)):
            return taken


def warm_up(infer: Infer, feeds: Sequence[Mapping[str, Array]], clock: Clock, plan: Plan) -> tuple[array[int], bool]:
    """All warm-up samples in ns, and whether they became steady before the cap."""
    taken, medians = array("q"), []
    begun = clock()
    while True:
        window = sample(infer, feeds, clock, lambda ns, n: ns >= plan.window_s * 1e9 and n >= plan.window_runs)
        taken.extend(window)
        medians.append(median(window))
        spent = clock() - begun
        if spent >= plan.warm_s * 1e9 and len(taken) >= plan.warm_runs and settled(medians):
            return taken, True
        if spent >= plan.warm_cap_s * 1e9:
            return taken, False


def settled(medians: Sequence[float]) -> bool:
    """Whether the last 3 window medians lie within 1 % of each other."""
    last = medians[-3:]
    return len(last) == 3 and max(last) < 1.01 * min(last)


def timer_overhead_ns(clock: Clock, runs: int = 1000) -> float:
    """Median time that the loop itself adds to a sample: a run whose inference does nothing."""
    nothing: Mapping[str, Array] = {}
    return float(median(sample(lambda feed: feed, [nothing], clock, lambda _, n: n >= runs)))


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: one process's measurements of ``payload["artifact"]`` as JSON-ready values, times in ns.

    Raises what ``open_session`` raises.
    """
    plan = Plan(**payload["plan"])
    feeds = load_feeds(Path(payload["feeds"]))
    artifact = Artifact.open(payload["artifact"])
    idle = resident_bytes("VmRSS")
    clock = time.perf_counter_ns
    begun = clock()
    opening = {key: payload[key] for key in ("threads", "provider", "trust")}
    with open_session(artifact, payload["runtime"], **opening) as session:
        load_ns = clock() - begun
        begun = clock()
        first = session.infer(feeds[0])
        first_ns = clock() - begun
        if not (ok := all_finite(first.values())):
            return {"finite": ok}
        report = Reporter(plan)
        gc.collect()
        gc.disable()
        try:
            overhead = timer_overhead_ns(clock)
            warm, steady = warm_up(session.infer, feeds, clock, plan)
            with Watch(standard_monitors(), report) as watch:
                taken = sample(session.infer, feeds, clock, report.enough)
        finally:
            gc.enable()
        last = session.infer(feeds[0])
        peak = resident_bytes("VmHWM")
        return {
            "finite": all_finite(last.values()),
            "provider": session.provider,
            "threads": session.threads,
            "details": session.details,
            "load_ns": load_ns,
            "first_ns": first_ns,
            "warm_ns": list(warm),
            "warm_steady": steady,
            "samples_ns": list(taken),
            "timer_ns": overhead,
            "idle_rss_bytes": idle,
            "peak_rss_bytes": None if peak is None or idle is None else peak - idle,
            "monitors": watch.series,
            "unmonitored": watch.unmonitored,
        }


class Reporter:
    """Decides when sampling is enough, and tells the parent how far it is from the monitors' thread, not the loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.fraction = 0.0

    def enough(self, elapsed_ns: int, count: int) -> bool:
        plan = self.plan
        self.fraction = min(elapsed_ns / (plan.min_s * 1e9), count / plan.min_count)
        return self.fraction >= 1 or elapsed_ns >= plan.limit_s * 1e9

    def __call__(self) -> None:
        worker.report("measuring", min(1.0, self.fraction))


def load_feeds(path: Path) -> list[dict[str, Array]]:
    """Calls' inputs from an .npz whose arrays are (calls, *input shape); each contiguous, so that no call copies."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = min(len(array) for array in arrays.values())
    return [{name: np.ascontiguousarray(array[row]) for name, array in arrays.items()} for row in range(count)]


def all_finite(outputs: Iterable[Array]) -> bool:
    """No NaN or infinity in any floating output."""
    return all(bool(np.isfinite(output).all()) for output in outputs if output.dtype.kind == "f")


def resident_bytes(name: str) -> int | None:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process from /proc; the peak from getrusage elsewhere; or None."""
    if found := field(read(Path("/proc/self/status")), name):
        return int(found.split()[0]) * 1024
    if name != "VmHWM" and sys.platform != "darwin":
        return None
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plan_record(plan: Plan) -> dict[str, float]:
    return asdict(plan)
