"""What a large fleet costs: planning and simulating it, and asking all of it how it is.

    python benchmarks/fleet_scale.py [--sessions 500] [--runs 5]

Planning: a bundle's sub-models on 10,000 nodes with every kind of budget, and what-if over that plan. Status: so many
node sessions, in one process, on one router, each with what a node announces and serves and a beat every 500 ms; a
fresh operator session then asks for all of it, from the moment it opens. Writes results/fleet_scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from edgevit.bundle.assign import Node, Part, memory_need
from edgevit.bundle.fleet_file import Fleet
from edgevit.bundle.plan import make_plan
from edgevit.fleet.agent.router import run_router
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import Beat, Info, PartFigures
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Closer, Question
from edgevit.fleet.operating.simulate import what_if
from edgevit.fleet.operating.status import status
from edgevit.profiles import environment

RESULTS = Path(__file__).parent / "results"
NODES = 10_000
GOAL_S = 1.0
BEAT_S = 0.5
REVISION = "a" * 64


# --- planning -------------------------------------------------------------------------------------------------------


def problem(parts: int, nodes: int) -> tuple[list[Part], Fleet]:
    """Sub-models as ViT-Base's are, and nodes of which some hold one and some many; half have an energy budget."""
    rng = np.random.default_rng(6)
    sizes, macs = rng.integers(3e6, 80e6, parts), rng.integers(3e7, 4e9, parts)
    made = [
        Part(f"part-{i}", int(size), memory_need(int(size)), int(mac), 3072)
        for i, (size, mac) in enumerate(zip(sizes, macs, strict=True))
    ]
    room = max(part.memory_bytes for part in made) * 1.5
    fleet = tuple(
        Node(
            f"node-{i}",
            int(room * rng.uniform(0.3, 2)),
            float(rng.uniform(3e9, 4e10)),
            8e9 if rng.random() < 0.5 else None,
            float(rng.choice([10, 100, 1000])),
        )
        for i in range(nodes)
    )
    return made, Fleet(Path("fleet.toml"), fleet)


def planning(runs: int) -> dict[str, object]:
    """Seconds to place and to simulate, with some nodes dead and each down 1 % of the time."""
    rows: dict[str, object] = {}
    for parts, replicas in ((10, 1), (10, 2), (100, 2), (1000, 1)):
        made, fleet = problem(parts, NODES)
        macs = {part.name: part.macs for part in made}
        links = {node.name: node.link_mbps for node in fleet.nodes if node.link_mbps}
        plan_s, simulate_s = [], []
        for _ in range(runs):
            began = time.perf_counter()
            plan = make_plan(made, fleet, bundle_sha256=REVISION, replicas=replicas)
            planned = time.perf_counter()
            busy = [node.node for node in plan.nodes if node.parts]
            what_if(
                plan,
                macs=macs,
                classes=dict.fromkeys(macs, ()),
                links=links,
                image_bytes=150_528,
                rate=2.0,
                lose=busy[:1],
                fail_probability=0.01,
            )
            plan_s.append(planned - began)
            simulate_s.append(time.perf_counter() - planned)
        rows[f"{parts} sub-models, {replicas} replica{'s' * (replicas > 1)}"] = {
            "plan_s": median(plan_s), "simulate_s": median(simulate_s), "plan_samples_s": plan_s,
            "simulate_samples_s": simulate_s,
        }  # fmt: skip
    return rows


# --- status ---------------------------------------------------------------------------------------------------------


class Sessions:
    """Nodes without engines, each on a session of its own."""

    def __init__(self, count: int, link: Link) -> None:
        self.names = Names()
        self.nodes = [f"node-{index}" for index in range(count)]
        self.buses: list[Bus] = []
        self.kept: list[Closer] = []  # what is declared ends with the object
        for index, node in enumerate(self.nodes):
            bus = open_bus(link, "node", node)
            part = f"part-{index % 16}"
            self.kept += [
                bus.serve(self.names.info(node), lambda question, node=node: self._tell(question, node)),
                bus.serve(self.names.infer(REVISION, part, node), lambda question: question.refuse("busy")),
                bus.announce(self.names.ready(REVISION, part, node, "one")),
                bus.announce(self.names.live(node, "one")),
            ]
            self.buses.append(bus)

    def _tell(self, question: Question, node: str) -> None:
        info = Info(
            node=node, incarnation="one", edgevit="0", arch="x86_64", system="Linux", python="3.11", cores=4,
            runtimes=("onnxruntime",), memory_bytes=1 << 30, free_bytes=1 << 29, started="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        question.answer(info.encode())
        question.finish()

    def beat_for_ever(self) -> None:
        """Spread evenly over every half second."""
        seq = 0
        while True:
            seq += 1
            began = time.monotonic()
            for index, (node, bus) in enumerate(zip(self.nodes, self.buses, strict=True)):
                figures = PartFigures(revision=REVISION, part=f"part-{index % 16}", compute_p50_ms=3.0)
                beat = Beat(
                    node=node, incarnation="one", seq=seq, rss_bytes=1, memory_bytes=1 << 30, free_bytes=1 << 29,
                    parts=(figures,),
                )  # fmt: skip
                bus.publish(self.names.beat(node), beat.encode())
                due = began + BEAT_S * (index + 1) / len(self.nodes)
                if (left := due - time.monotonic()) > 0.002:
                    time.sleep(left)


def run_sessions(count: int, endpoint: str) -> None:
    """The process of the nodes: says when all are there."""
    sessions = Sessions(count, Link(mode="client", connect=(endpoint,)))
    threading.Thread(target=sessions.beat_for_ever, daemon=True).start()
    print("there", flush=True)
    sys.stdin.read()
    os._exit(0)


@dataclass(frozen=True)
class Asked:
    """One status of all."""

    seconds: float
    nodes: int
    up: int
    with_figures: int


def asked(endpoint: str) -> Asked:
    began = time.perf_counter()
    found = status(Link(mode="client", connect=(endpoint,)))
    seconds = time.perf_counter() - began
    return Asked(
        seconds, len(found.nodes), sum(one.state == "up" for one in found.nodes),
        sum(one.p50_ms is not None for one in found.nodes),
    )  # fmt: skip


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def many_sessions(count: int, runs: int) -> dict[str, object]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp/127.0.0.1:{free.getsockname()[1]}"
    me = [sys.executable, __file__]
    router = subprocess.Popen([*me, "--router", endpoint])
    nodes = None
    try:
        time.sleep(2)
        idle_mb = memory_mb(router.pid)
        began = time.perf_counter()
        command = [*me, "--node-sessions", endpoint, "--sessions", str(count)]
        nodes = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if nodes.stdout is None or nodes.stdout.readline().strip() != "there":
            raise RuntimeError("the sessions did not open")
        opening_s = time.perf_counter() - began
        time.sleep(3)
        found = [asked(endpoint) for _ in range(runs)]
        return {
            "sessions": count,
            "opening_s": opening_s,
            "router_idle_mb": idle_mb,
            "router_mb": memory_mb(router.pid),
            "status_s": median(one.seconds for one in found),
            "samples": [asdict(one) for one in found],
        }
    finally:
        for process in (nodes, router):
            if process is not None:
                process.kill()
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--router", help=argparse.SUPPRESS)
    parser.add_argument("--node-sessions", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.router:
        return run_router(Link(mode="router", listen=(given.router,)))
    if given.node_sessions:
        return run_sessions(given.sessions, given.node_sessions)
    with tempfile.TemporaryDirectory() as home:
        os.environ["EDGEVIT_HOME"] = home
        plans = planning(given.runs)
        sessions = many_sessions(given.sessions, given.runs)
    record = {"environment": environment.collect().record(), "goal_s": GOAL_S, "planning": plans, "status": sessions}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fleet_scale.json").write_text(json.dumps(record, indent=1) + "\n")
    print("| 10,000 nodes | plan s | simulate s |\n|---|---|---|")
    for name, row in plans.items():
        print(f"| {name} | {row['plan_s']:.2f} | {row['simulate_s']:.2f} |")  # type: ignore[index]
    print(f"\n{given.sessions} node sessions on one router: status of all in {sessions['status_s']:.2f} s (median of "
          f"{given.runs}), router {sessions['router_idle_mb']:.0f} -> {sessions['router_mb']:.0f} MB")  # fmt: skip
    return None


if __name__ == "__main__":
    main()
