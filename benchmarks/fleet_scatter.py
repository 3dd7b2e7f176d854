"""What a scatter costs beyond Zenoh itself: 4 node processes, 150,528 bytes to each, 1,536 bytes back from each.

    python benchmarks/fleet_scatter.py [--blocks 40] [--turn 50] [--seconds 10]

raw      one Zenoh get a node and a reply from within the node's callback, with the settings of our bus
scatter  ours: credits, replies checked, the node's queue and a session of ONNX Runtime whose graph does nearly nothing
answer   the same with the fusion head: what a user waits for

In one process over the same session, interleaved (raw scatter answer answer scatter raw, and the other way round),
over loopback TCP and over mTLS. Ratios are ours ÷ raw: of the block medians for p50, with a bootstrap 95 % interval;
of all samples for p99. Then throughput with several threads. Goals: p50 ≤ 1.7×, p99 ≤ 2.6×. Writes
results/fleet_scatter.json.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from fleet_processes import RawClient, Site, raw_session, site, wait_parts

from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.operating.deploy import deploy
from edgevit.profiles import environment
from edgevit.profiles.statistics import median_ratio

RESULTS = Path(__file__).parent / "results"
NODES = 4
WARM_UP = 200
UNCOUNTED = 3  # calls of a turn, while the other's threads go to sleep
GOALS = {"p50": 1.7, "p99": 2.6}
DEADLINE_S = 2.0

Call = Callable[[], int]


def turn(call: Call, count: int) -> list[float]:
    """Milliseconds of each call; SystemExit when one loses an answer, which would make it look quick."""
    for _ in range(UNCOUNTED):
        call()
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        answered = call()
        found.append((time.perf_counter() - begun) * 1e3)
        if answered != NODES:
            raise SystemExit(f"only {answered} of {NODES} answered")
    return found


def interleaved(calls: dict[str, Call], blocks: int, count: int) -> dict[str, list[list[float]]]:
    """Samples of each by block."""
    found: dict[str, list[list[float]]] = {name: [] for name in calls}
    for block in range(blocks):
        order = list(calls)[:: 1 if block % 2 else -1]
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for name in [*order, *reversed(order)]:
            samples[name] += turn(calls[name], count // 2)
        for name, one in samples.items():
            found[name].append(one)
    return found


def summary(found: dict[str, list[list[float]]]) -> dict[str, Any]:
    everything = {name: np.concatenate(blocks) for name, blocks in found.items()}
    rows: dict[str, Any] = {}
    for name, samples in everything.items():
        rows[name] = {
            "n": len(samples),
            "p50_ms": float(np.percentile(samples, 50)),
            "p99_ms": float(np.percentile(samples, 99)),
            "block_medians_ms": [round(median(block), 4) for block in found[name]],
        }
        if name != "raw":
            pairs = zip(found[name], found["raw"], strict=True)
            ratio = median_ratio([median(mine) / median(raw) for mine, raw in pairs])
            rows[name]["p50_ratio"] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
            rows[name]["p99_ratio"] = rows[name]["p99_ms"] / rows["raw"]["p99_ms"]
    return rows


def throughput(call: Call, threads: int, seconds: float) -> dict[str, Any]:
    """Requests per second with so many in flight, and how many of them lost an answer."""
    counts, lost = [0] * threads, [0] * threads
    until = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < until:
            lost[index] += call() != NODES
            counts[index] += 1

    running = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    begun = time.perf_counter()
    for one in running:
        one.start()
    for one in running:
        one.join()
    return {"in_flight": threads, "per_s": sum(counts) / (time.perf_counter() - begun), "degraded": sum(lost)}


def measured(place: Site, bundle: Path, blocks: int, count: int, seconds: float) -> dict[str, Any]:
    names = [f"node-{index}" for index in range(NODES)]
    raw_names = [f"raw-{index}" for index in range(NODES)]
    for name in names:
        place.edgevit(name)
    for name in raw_names:
        place.raw(name)
    place.wait_live(*names, *raw_names)
    deploy(bundle, place.link("operator", "operator"), plan=None)
    bus = open_bus(place.link("client", "client"), "client")
    client = FleetClient(bus, Names())
    session = FleetSession(bundle, client)
    wait_parts(client, session.revision, session.parts)
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    load = session.takes.load(image)
    raw_client = RawClient(raw_session(bus), raw_names)
    payload, meta = image.tobytes(), b'{"id":"0000000000000000","kind":"tensor","left_ms":2000.0}'
    calls: dict[str, Call] = {
        "raw": lambda: raw_client.scatter(payload, meta),
        "scatter": lambda: len(client.scatter(session.revision, load, session.wanted, DEADLINE_S).found),
        "answer": lambda: session.answer(image, DEADLINE_S).answered,
    }
    try:
        for call in calls.values():
            turn(call, WARM_UP)
        found = summary(interleaved(calls, blocks, count))
        for name, call in calls.items():
            found[name]["throughput"] = [throughput(call, threads, seconds) for threads in (1, 4, 8)]
        answer = session.answer(image, DEADLINE_S)
        found["split_ms"] = [one.record() for one in answer.timings]
        return found
    finally:
        session.close()
        client.close()
        bus.close()


def show(title: str, rows: dict[str, Any]) -> None:
    print(f"\n{title}: {NODES} nodes, 150,528 bytes to each")
    for name in ("raw", "scatter", "answer"):
        row = rows[name]
        line = f"  {name:8} p50 {row['p50_ms']:6.3f} ms   p99 {row['p99_ms']:6.3f} ms"
        if ratio := row.get("p50_ratio"):
            line += f"   ÷ raw: p50 {ratio['value']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
            line += f", p99 {row['p99_ratio']:.2f}"
        print(line + "   " + ", ".join(f"{one['per_s']:.0f}/s at {one['in_flight']}" for one in row["throughput"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--turn", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each throughput figure")
    parser.add_argument("--out", type=Path, default=RESULTS / "fleet_scatter.json")
    given = parser.parse_args()
    from fleet.tiny_fleet import noop_bundle

    results: dict[str, Any] = {"goals": GOALS, "machine": environment.collect().record()}
    for title, secured in (("tcp", False), ("mtls", True)):
        with site(secured=secured) as place:
            bundle = noop_bundle(place.home / "noop", NODES)
            results[title] = measured(place, bundle, given.blocks, given.turn, given.seconds)
            show(title, results[title])
            given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
