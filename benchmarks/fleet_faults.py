"""What requests see when nodes die, stall, crawl or lie: 4 node processes, 150,528-byte frames at 30 a second.

    python benchmarks/fleet_faults.py [SCENARIO …] [--seconds 3]
    python benchmarks/fleet_faults.py --soak MINUTES

kill      one node gets SIGKILL, with 1 and with 2 replicas of every part, and is started again
stall     one node gets SIGSTOP, and later SIGCONT, with 1 replica and with 2
cut       one node's link is cut in its network namespace, and healed: TCP and mTLS, peers and a router, 1 replica and 2
router    of two routers the first is killed and started again: one node knows both, one only that; mTLS, namespaces
wan       the link between two sites is cut, each with a router and a node with all sub-models, and healed; the same
slow      one node's link has 10 Mbit/s: a frame takes 120 ms
lie       one of two replicas answers wrong shapes, NaN, a replayed id, or late
soak      50 requests a second, 2 replicas; a node is killed every 20 s and started again 5 s later

Beside each runs a witness, a process that only sleeps: when it is not woken, the machine itself stood still (not in
router and wan). Scenarios that are not asked for keep the results they have.

Frames are due at fixed times and their latency counts from then, whether or not a thread was free: nothing that waits
is left out (router, wan: one frame at a time is asked). "in time" is an answer, whole or degraded, within the deadline
of 200 ms (cut, router, wan, slow, soak: 500 ms) and 10 ms. Detection is from the fault until the node's tokens are gone
(as of the next frame in router and wan); rejoin from the repair until an answer is whole again.
Network namespaces need root. Writes results/fleet_faults.json, or results/fleet_soak.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from fleet_processes import Site, new_home, site, wait_parts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fleet.laptop import Frame
from fleet.netns import network
from fleet.sites import Sites
from fleet.tiny_fleet import noop_bundle
from waiting import wait_for

from edgevit.errors import FleetError
from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus
from edgevit.fleet.operating.deploy import deploy
from edgevit.profiles import environment

RESULTS = Path(__file__).parent / "results"
NODES, FPS, DEADLINE_S, THREADS = 4, 30.0, 0.2, 16
PATIENCE_S = 15.0  # for a repaired fleet
LATER_S = 0.010  # of a deadline, for a busy machine's scheduler
FIRST = "node-0"
SITE_PARTS, SITE_DEADLINE_S, WARM_FRAMES = 2, 0.5, 60
STALL_S = 0.05
WITNESS = f"""
import time
last = time.perf_counter()
while True:
    time.sleep(0.01)
    now = time.perf_counter()
    if now - last > 0.01 + {STALL_S}:
        print(last, now, flush=True)
    last = now
"""


class Frames:
    """Requests: when each was due, how long it took from then, how many sub-models answered (0: none), and what went
    wrong. Room for all of them is taken at once, so that a soak's memory is the client's."""

    def __init__(self, room: int) -> None:
        self._rows, self._count = np.full((room, 3), np.nan), 0
        self._lock = threading.Lock()
        self.errors: list[tuple[float, str]] = []

    def add(self, due: float, ms: float, answered: int, error: str | None) -> None:
        with self._lock:
            self._rows[self._count] = due, ms, answered
            self._count += 1
            if error:
                self.errors.append((due, error))

    def rows(self, begin: float, end: float = np.inf) -> np.ndarray:
        """(frames, 3), in the order they were due."""
        rows = self._rows[: self._count]
        rows = rows[(rows[:, 0] >= begin) & (rows[:, 0] < end)]
        return rows[np.argsort(rows[:, 0])]

    def last(self, count: int) -> np.ndarray:
        return self._rows[max(0, self._count - count) : self._count]


class Timed:
    """A bus that notes how long asking blocks."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.longest_ms = bus, 0.0

    def ask(self, *given: Any, **named: Any) -> None:
        begun = time.perf_counter()
        self.bus.ask(*given, **named)
        self.longest_ms = max(self.longest_ms, (time.perf_counter() - begun) * 1e3)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bus, name)


@dataclass
class Run:
    """A deployment that is asked for frames in the background."""

    place: Site
    session: FleetSession
    client: FleetClient
    bus: Timed
    deadline_s: float
    frames: Frames = field(default_factory=lambda: Frames(20_000))
    gone: dict[str, float] = field(default_factory=dict)  # node -> when its live token went

    def ask(self, due: float, image: np.ndarray) -> None:
        answered, error = 0, None
        try:
            answer = self.session.answer(image, self.deadline_s)
            answered = answer.answered
            error = "; ".join(f"{one.part}: {one.reason}" for one in answer.missing) or None
        except FleetError as exc:
            error = str(exc)
        except Exception as exc:  # a lost request, whatever it was
            error = f"{type(exc).__name__}: {exc}"
        self.frames.add(due, (time.perf_counter() - due) * 1e3, answered, error)

    @contextmanager
    def frames_of(self, fps: float) -> Iterator[None]:
        """Ask for frames while the block runs; all are answered when it ends."""
        image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
        over = threading.Event()

        def tick() -> None:
            due = time.perf_counter()
            while not over.wait(max(0.0, due - time.perf_counter())):
                pool.submit(self.ask, due, image)
                due += 1 / fps

        with ThreadPoolExecutor(THREADS) as pool:
            ticking = threading.Thread(target=tick)
            ticking.start()
            try:
                yield
            finally:
                over.set()
                ticking.join()

    def summary(self, begin: float, end: float) -> dict[str, Any]:
        errors = Counter(error for due, error in self.frames.errors if begin <= due < end)
        return summary(self.frames.rows(begin, end), NODES, self.deadline_s) | {"errors": dict(errors.most_common(20))}

    def well(self, at_most: float) -> bool:
        """Whether the newest answers are whole, or it is too late to wait for that."""
        return time.perf_counter() > at_most or bool((self.frames.last(10)[:, 2] == NODES).all())


def summary(rows: np.ndarray, parts: int, deadline_s: float) -> dict[str, Any]:
    """Of rows of (due, milliseconds, sub-models that answered)."""
    _, ms, answered = rows.T
    return {
        "frames": len(ms),
        "whole": int((answered == parts).sum()),
        "degraded": int(((answered > 0) & (answered < parts)).sum()),
        "lost": int((answered == 0).sum()),
        "late": int((ms > (deadline_s + LATER_S) * 1e3).sum()),
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
        "max_ms": float(ms.max()),
        "fewest_sub_models": int(answered.min()),
    }


def whole_again(rows: np.ndarray, parts: int, since: float) -> float | None:
    """Seconds from ``since`` until the first whole answer from which on all are whole; None: never."""
    due, ms, answered = rows.T
    bad = np.flatnonzero(answered != parts)
    first = int(bad[-1]) + 1 if len(bad) else 0
    return float(due[first] + ms[first] / 1e3 - since) if first < len(due) else None


@contextmanager
def running(
    place: Site, *, replicas: int = 1, deadline_s: float = DEADLINE_S, names: Sequence[str] | None = None
) -> Iterator[Run]:
    """Nodes with the no-op bundle, and a client."""
    bundle = noop_bundle(place.home / "noop", NODES)
    nodes = list(names or (f"node-{index}" for index in range(NODES)))
    for name in nodes:
        place.edgevit(name)
    place.wait_live(*nodes)
    deploy(bundle, place.link("operator", "operator"), replicas=replicas, replace_after_s=60.0)
    bus = Timed(open_bus(place.link("client", "client"), "client"))
    client = FleetClient(bus, Names())
    session = FleetSession(bundle, client)
    run = Run(place, session, client, bus, deadline_s)

    def live(key: str, here: bool) -> None:
        if not here:
            run.gone[Names().steps(key)[1]] = time.perf_counter()

    watch = bus.watch(Names().live(), live)
    wait_parts(client, session.revision, session.parts)
    wait_for(lambda: all(len(client.replicas(session.revision, part)) >= replicas for part in session.parts))
    image = np.zeros((1, 224, 224, 3), np.uint8)
    for _ in range(100):
        session.answer(image, 5.0)
    place.run("witness", [sys.executable, "-c", WITNESS])
    run.bus.longest_ms = 0.0
    try:
        yield run
    finally:
        watch.close()
        session.close()
        client.close()
        bus.close()


def fault(run: Run, seconds: float, harm: Callable[[], None], repair: Callable[[], None] | None) -> dict[str, Any]:
    """Normal, harmed and repaired, for ``seconds`` each."""
    with run.frames_of(FPS):
        time.sleep(0.3)
        began = time.perf_counter()
        time.sleep(seconds)
        harmed = time.perf_counter()
        harm()
        time.sleep(seconds)
        repaired = time.perf_counter()
        if repair:
            repair()
            while time.perf_counter() < repaired + seconds or not run.well(repaired + PATIENCE_S):
                time.sleep(0.1)
        ended = time.perf_counter()
    found: dict[str, Any] = {"normal": run.summary(began, harmed), "harmed": run.summary(harmed, repaired)}
    found["p99_harmed_to_normal"] = found["harmed"]["p99_ms"] / found["normal"]["p99_ms"]
    if FIRST in run.gone:
        found["detection_ms"] = (run.gone[FIRST] - harmed) * 1e3
    if repair:
        found["repaired"] = run.summary(repaired, ended)
        found["rejoin_s"] = whole_again(run.frames.rows(repaired), NODES, repaired)
    found["longest_ask_ms"] = run.bus.longest_ms
    found["machine"] = stalls(run.place.log("witness"), run.frames.rows(began, ended), run.deadline_s)
    found["nodes"] = [one.record() for one in run.client.figures()]
    return found


def kill(seconds: float) -> dict[str, Any]:
    found = {}
    for replicas in (1, 2):
        with site() as place, running(place, replicas=replicas) as run:
            found[f"replicas {replicas}"] = fault(run, seconds, lambda: place.kill(FIRST), lambda: place.edgevit(FIRST))
    return found


def stall(seconds: float) -> dict[str, Any]:
    found = {}
    for replicas in (1, 2):
        with site() as place, running(place, replicas=replicas) as run:
            found[f"replicas {replicas}"] = fault(
                run, seconds, lambda: place.signal(FIRST, signal.SIGSTOP), lambda: place.signal(FIRST, signal.SIGCONT)
            )
    return found


def cut(seconds: float) -> dict[str, Any]:
    found = {}
    for secured, routed, replicas in product((False, True), (False, True), (1, 2)):
        with (
            network(NODES) as net,
            site(secured=secured, network=net, routed=routed) as place,
            running(place, replicas=replicas, deadline_s=0.5) as run,
        ):
            host = place.host(FIRST)
            title = f"{'mtls' if secured else 'tcp'}, {'router' if routed else 'peers'}, replicas {replicas}"
            found[title] = fault(run, seconds, partial(net.cut, host), partial(net.heal, host))
    return found


def slow(seconds: float) -> dict[str, Any]:
    with network(NODES) as net, site(network=net) as place, running(place, deadline_s=0.5) as run:
        return {"10 Mbit/s": fault(run, seconds, lambda: net.slow(place.host(FIRST), 10), None)}


def router(seconds: float) -> dict[str, Any]:
    """What a client of both routers sees. It and the nodes are on one host, and on the first router when that dies."""
    first, second, host = 0, 1, 2
    with network(3) as net, new_home() as home, Sites(home, net) as place:
        bundle = noop_bundle(home / "noop", SITE_PARTS)
        place.router("first", first)
        place.node("both", host, first, second)
        place.node("only", host, first)
        place.see(first, "both", "only")
        place.deploy(first, bundle)
        place.laptop("laptop", host, bundle, first, second, fps=FPS, deadline_s=SITE_DEADLINE_S)
        place.wait_for_frames("laptop", whole, WARM_FRAMES)
        place.router("second", second, first)
        place.see(second, "both", "only")
        return site_fault(place, seconds, ["laptop"], lambda: place.kill("first"), lambda: place.router("first", first))


def wan(seconds: float) -> dict[str, Any]:
    """What a client at each site sees. A site is one host."""
    names = {0: "here", 1: "there"}
    with network(2) as net, new_home() as home, Sites(home, net) as place:
        bundle = noop_bundle(home / "noop", SITE_PARTS)
        place.router("router-here", 0)
        place.router("router-there", 1, 0)
        for host, name in names.items():
            place.node(name, host, host)
        for host in names:
            place.see(host, *names.values())
        place.deploy(0, bundle, replicas=2)
        for host, name in names.items():
            place.laptop(f"laptop-{name}", host, bundle, host, fps=FPS, deadline_s=SITE_DEADLINE_S)
        clients = [f"laptop-{name}" for name in names.values()]
        for client in clients:
            place.wait_for_frames(client, lambda one: whole(one) and len(one.live) == len(names), WARM_FRAMES)
        return site_fault(place, seconds, clients, partial(net.cut, 1), partial(net.heal, 1))


def site_fault(
    place: Sites, seconds: float, clients: list[str], harm: Callable[[], None], repair: Callable[[], None]
) -> dict[str, Any]:
    """``fault`` for laptops, each of which loses one node of two by it, and what each sees."""
    began = time.monotonic()
    time.sleep(seconds)
    harmed = time.monotonic()
    harm()
    time.sleep(seconds)
    repaired = time.monotonic()
    repair()
    for client in clients:
        place.wait_for_frames(client, lambda one: whole(one) and len(one.live) == 2)
    time.sleep(max(0.0, repaired + seconds - time.monotonic()))
    times = (began, harmed, repaired, time.monotonic())
    return {client: seen(place.frames(client), times) for client in clients}


def seen(frames: list[Frame], times: tuple[float, float, float, float]) -> dict[str, Any]:
    """By one laptop while all was normal, harmed and repaired. ``carried_on_s``: until no frame is lost any more."""
    stages = {
        name: [one for one in frames if begin <= one.due < end]
        for name, begin, end in zip(("normal", "harmed", "repaired"), times, times[1:], strict=False)
    }
    rows = {name: np.array([(one.due, one.ms, len(one.parts)) for one in some]) for name, some in stages.items()}
    found: dict[str, Any] = {name: summary(some, SITE_PARTS, SITE_DEADLINE_S) for name, some in rows.items()}
    _, harmed, repaired, _ = times
    return found | {
        "p99_harmed_to_normal": found["harmed"]["p99_ms"] / found["normal"]["p99_ms"],
        "detection_ms": when(stages["harmed"], lambda one: len(one.live) < 2, harmed),
        "carried_on_s": whole_again(np.minimum(rows["harmed"], (np.inf, np.inf, 1)), 1, harmed),
        "seen_again_ms": when(stages["repaired"], lambda one: len(one.live) == 2, repaired),
        "rejoin_s": whole_again(rows["repaired"], SITE_PARTS, repaired),
    }


def whole(frame: Frame) -> bool:
    return len(frame.parts) == SITE_PARTS


def when(frames: list[Frame], true: Callable[[Frame], bool], since: float) -> float | None:
    """Milliseconds from ``since`` until the first of these frames was answered for which it is so; None: never."""
    first = next((frame for frame in frames if true(frame)), None)
    return None if first is None else (first.due - since) * 1e3 + first.ms


def lie(seconds: float) -> dict[str, Any]:
    """The liar is a second replica of every part, so that no answer need be degraded."""
    found = {}
    for behaviour in ("shape", "nan", "replay", "slow:400"):
        with site() as place, running(place) as run:
            features, parts = run.session.wanted[0].shape[0], ",".join(run.session.parts)
            begin = partial(place.odd, "liar", run.session.revision, parts, behaviour, features)
            found[behaviour] = fault(run, seconds, begin, None)
    return found


def soak(minutes: float) -> dict[str, Any]:
    """Requests, memory and descriptors over time."""
    with site() as place, running(place, replicas=2, deadline_s=0.5) as run:
        run.frames = Frames(int(minutes * 60 * 60) + 10_000)
        return soaked(run, minutes)


def soaked(run: Run, minutes: float) -> dict[str, Any]:
    rows: list[dict[str, float]] = []
    place = run.place
    with run.frames_of(50.0):
        began, kills = time.perf_counter(), 0
        while (at := time.perf_counter() - began) < minutes * 60:
            victim = f"node-{kills % NODES}"
            time.sleep(15)
            place.kill(victim)
            time.sleep(5)
            place.edgevit(victim)
            kills += 1
            rows.append({"s": at, "rss_mb": rss_mb(os.getpid()), "fds": len(os.listdir("/proc/self/fd"))})
            steady = {
                f"{name}_rss_mb": rss_mb(one.pid)
                for name, one in place.running.items()
                if name not in (victim, "witness")
            }
            print(f"{at:6.0f} s  client {rows[-1]['rss_mb']:.1f} MB, {rows[-1]['fds']} fds; {steady}", flush=True)
        ended = time.perf_counter()
    half = [row for row in rows if row["s"] >= minutes * 30]
    enough = len(half) >= 3
    slope = np.polyfit([row["s"] / 3600 for row in half], [row["rss_mb"] for row in half], 1)[0] if enough else np.nan
    return {
        "minutes": minutes,
        "kills": kills,
        **run.summary(began, ended),
        "machine": stalls(place.log("witness"), run.frames.rows(began, ended), run.deadline_s),
        "rss_mb_per_hour_second_half": float(slope) if enough else None,
        "fds": [int(rows[0]["fds"]), int(rows[-1]["fds"])],
        "longest_ask_ms": run.bus.longest_ms,
        "rows": rows,
        "nodes": [one.record() for one in run.client.figures()],
    }


def stalls(log: str, frames: np.ndarray, deadline_s: float) -> dict[str, Any]:
    """When a process that only sleeps was kept from waking for over ``STALL_S``, and what was lost at other times."""
    times = np.array([line.split() for line in log.splitlines()], dtype=float).reshape(-1, 2)
    began, ended = times.T
    lost = frames[frames[:, 2] == 0, 0]
    meanwhile = (lost[:, None] < ended + deadline_s) & (lost[:, None] + deadline_s > began)
    return {
        "stalls": len(times),
        "longest_ms": float((ended - began).max(initial=0.0)) * 1e3,
        "share": float((ended - began).sum() / (frames[-1, 0] - frames[0, 0])),
        "lost_at_other_times": int((~meanwhile.any(axis=1)).sum()),
    }


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


SCENARIOS = {"kill": kill, "stall": stall, "cut": cut, "router": router, "wan": wan, "slow": slow, "lie": lie}


SHOWN = ("detection_ms", "carried_on_s", "seen_again_ms", "rejoin_s", "longest_ask_ms")


def show(scenario: str, found: dict[str, Any]) -> None:
    for title, one in found.items():
        print(f"\n{scenario}, {title}")
        for stage in ("normal", "harmed", "repaired"):
            if row := one.get(stage):
                print(
                    f"  {stage:9} {row['frames']:4} frames: {row['whole']} whole, {row['degraded']} degraded, "
                    f"{row['lost']} lost, {row['late']} late; p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f}, "
                    f"max {row['max_ms']:.1f} ms"
                )
        more = [f"{key} {one[key]:.2f}" for key in SHOWN if one.get(key)]
        if "machine" in one:
            more.append(
                f"the machine stood still {one['machine']['stalls']} times, {one['machine']['longest_ms']:.0f} ms"
            )
        print("  " + ", ".join([*more, f"p99 ÷ normal {one['p99_harmed_to_normal']:.2f}"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stage")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    machine = environment.collect().record()
    if given.soak:
        found = soak(given.soak)
        print({key: value for key, value in found.items() if key not in ("rows", "nodes")})
        out = given.out or RESULTS / "fleet_soak.json"
        out.write_text(json.dumps({"machine": machine, "soak": found}, indent=1) + "\n")
        return
    out = given.out or RESULTS / "fleet_faults.json"
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    results["machine"] = machine
    for scenario in given.scenarios or SCENARIOS:
        results[scenario] = SCENARIOS[scenario](given.seconds)
        show(scenario, results[scenario])
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
