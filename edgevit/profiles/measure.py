"""The worker's side of a profile: open, first inference, warm-up until steady, then samples. No judgement here."""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgevit import worker
from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.errors import Unsupported
from edgevit.profiles import energy, warmup
from edgevit.profiles.environment import field, read
from edgevit.profiles.monitors import Watch, standard_monitors
from edgevit.profiles.scenarios import BackToBack, Scenario, Timeline, drive, pace_of, several, wait_until
from edgevit.runtimes.base import Session, open_session

GPU_PROVIDERS = frozenset({"cuda", "tensorrt", "gpu"})
Infer = Callable[[Mapping[str, Array]], object]
Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. Sampling ends when both ``min_s`` and ``min_count`` are reached, or at ``limit_s``.

    Warm-up lasts at least ``warm_s`` and ``warm_runs`` runs, until it has settled (``warmup.settled``), at most
    ``warm_cap_s``. Back-to-back samples that still move are followed by more, up to ``steady_cap_s`` in all. Energy is
    measured where the machine can be watched idle for ``idle_s`` before the model is opened.
    """

    min_s: float = 3.0
    min_count: int = 64
    limit_s: float = 120.0
    warm_s: float = 1.0
    warm_runs: int = 10
    warm_cap_s: float = 10.0
    steady_cap_s: float = 0.0
    idle_s: float = 0.0


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


def timer_overhead_ns(clock: Clock, runs: int = 1000) -> float:
    """Median time that the loop itself adds to a sample: a run whose inference does nothing."""
    nothing: Mapping[str, Array] = {}
    return float(median(sample(lambda feed: feed, [nothing], clock, lambda _, n: n >= runs)))


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: one process's measurements of ``payload["artifact"]`` as JSON-ready values, times in ns.

    Raises what ``open_session`` raises.
    """
    plan, scenario = Plan(**payload["plan"]), Scenario(**payload["scenario"])
    feeds = load_feeds(Path(payload["feeds"]))
    artifact = Artifact.open(payload["artifact"])
    gpu = (payload["provider"] or "").lower() in GPU_PROVIDERS or artifact.manifest.target == "tensorrt"
    joules = Joules(plan, gpu=gpu)
    idle = resident_bytes("VmRSS")
    clock = time.perf_counter_ns
    begun = clock()
    opening = {key: payload[key] for key in ("threads", "provider", "trust", "options")}
    with open_session(artifact, payload["runtime"], **opening) as session:
        load_ns = clock() - begun
        begun = clock()
        first = session.infer(feeds[0])
        first_ns = clock() - begun
        if not (ok := all_finite(first.values())):
            return {"finite": ok}
        query = several(session.infer, feeds, payload["calls"])
        report = Reporter(plan)
        gc.collect()
        gc.disable()
        try:
            overhead = timer_overhead_ns(clock)
            draw = partial(sample, query, feeds, clock)
            warm, steady = warmup.warm_up(
                draw, clock, least_s=plan.warm_s, least_runs=plan.warm_runs, cap_s=plan.warm_cap_s
            )
            with Watch([*standard_monitors(gpu=gpu), *joules.monitors], report) as watch:
                taken = measured(query, feeds, clock, report.enough, scenario, plan.steady_cap_s)
        finally:
            gc.enable()
        last = session.infer(feeds[0])
        peak = resident_bytes("VmHWM")
        working = working_memory(session, feeds[0])  # after the peak: it may open a second machine
        return {
            "finite": all_finite(last.values()),
            "provider": session.provider,
            "threads": session.threads,
            "precision": session.precision,
            "working_memory": working,
            "details": session.details,
            "load_ns": load_ns,
            "first_ns": first_ns,
            "warm_ns": list(warm),
            "warm_steady": steady,
            "samples_ns": list(taken.samples),
            "elapsed_ns": taken.elapsed_ns,
            "dropped": taken.dropped,
            "timer_ns": overhead,
            "idle_rss_bytes": idle,
            "peak_rss_bytes": None if peak is None or idle is None else peak - idle,
            "energy": joules.record(watch, len(taken.samples)),
            "monitors": watch.series,
            "unmonitored": watch.unmonitored,
        }


def measured(
    query: Infer,
    feeds: Sequence[Mapping[str, Array]],
    clock: Clock,
    enough: Callable[[int, int], bool],
    scenario: Scenario,
    steady_cap_s: float,
) -> Timeline:
    """The samples of a scenario. Back to back, more are taken while they move; a pace of its own is kept as it is."""
    pace = pace_of(scenario)
    if not isinstance(pace, BackToBack):
        return drive(query, feeds, clock, enough, pace, wait_until)
    begun = clock()
    draw = partial(sample, query, feeds, clock)
    taken, _ = warmup.until_steady(draw, clock, enough, cap_s=steady_cap_s)
    return Timeline(taken, clock() - begun)


class Joules:
    """Energy above idle: the machine is watched for ``plan.idle_s`` when this is made, before the model is opened."""

    def __init__(self, plan: Plan, *, gpu: bool) -> None:
        short = energy.NotMeasured("this tier is too short: use --tier standard")
        self.meter = energy.meter(gpu=gpu) if plan.idle_s > 0 else short
        self.monitors = [] if isinstance(self.meter, energy.NotMeasured) else [self.meter]
        self.idle: Sequence[dict[str, float]] = ()
        if self.monitors:
            with Watch(self.monitors) as watch:
                time.sleep(plan.idle_s)
            self.idle = watch.series.get("energy", ())

    def record(self, watch: Watch, inferences: int) -> dict[str, Any]:
        """``{joules, watts, idle_watts, seconds, source}``, or ``{not_measured: reason}``."""
        if isinstance(self.meter, energy.NotMeasured):
            return {"not_measured": self.meter.reason}
        series = watch.series.get("energy")
        if not series or not self.idle:
            return {"not_measured": f"{self.meter.source} could not be read throughout"}
        found = energy.joules_per_inference(series, self.idle, inferences, self.meter.source)
        return {"not_measured": found.reason} if isinstance(found, energy.NotMeasured) else asdict(found)


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


def working_memory(session: Session, feed: Mapping[str, Array]) -> dict[str, Any]:
    """``{bytes, source}``, or ``{not_measured: reason}``."""
    try:
        return {"bytes": session.working_memory(feed), "source": session.runtime}
    except Unsupported as reason:
        return {"not_measured": str(reason)}


def plan_record(plan: Plan) -> dict[str, float]:
    return asdict(plan)
