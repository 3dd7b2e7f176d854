"""Deploying 50 MB over a 100 Mbit/s link to a node that answers 20 KB frames meanwhile, and over a link that is cut.

    python benchmarks/fleet_deploy.py [--mb 50] [--mbit 100] [--repeats 3]

The node runs in a network namespace of its own, its link limited by tc in both directions; operator and client are
this process. Frames are due 20 times a second and their latency counts from then.

idle       frames alone
serving    the same while the node pulls; "share" is file bytes per second of the link's rate
alone      the pull without frames
cut        the link is cut at half of the pull and healed 3 s later; "again" is what crossed beyond the size of the
           file, as a share of it, by the interface's counter: headers, 4 % without a cut, and what crossed twice

Network namespaces need root. Writes results/fleet_deploy.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fleet_processes import Site, site

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fleet.heavy_bundle import heavy_bundle
from fleet.netns import Network, network
from fleet.tiny_fleet import noop_bundle

from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.operating.deploy import deploy, undeploy
from edgevit.profiles import environment

RESULTS = Path(__file__).parent / "results"
NODE, SIDE, FEATURES = "node-0", 82, 192  # 20,172 bytes a frame
FPS, IDLE_S, CUT_S = 20.0, 5.0, 3.0


class Pull:
    """One deployment, and when its pull was how far."""

    def __init__(self, path: Path, place: Site) -> None:
        self.path, self.place = path, place
        self.shares: list[tuple[float, float]] = []
        self.size = sum(file.stat().st_size for file in (path / "part-0").rglob("*") if file.is_file())

    def run(self) -> None:
        link = self.place.link("operator", "operator")
        deploy(self.path, link, name="heavy", on_progress=self._heard)

    def _heard(self, node: str, stage: str, share: float | None) -> None:
        if stage == "pulling" and share is not None:
            self.shares.append((time.perf_counter(), share))

    @property
    def mbit_s(self) -> float:
        (begun, first), (ended, last) = self.shares[0], self.shares[-1]
        return (last - first) * self.size * 8e-6 / (ended - begun)

    @property
    def ended(self) -> float:
        return self.shares[-1][0]


@contextmanager
def frames(session: FleetSession, found: list[tuple[float, float]]) -> Iterator[None]:
    """Ask for frames, one after another, while the block runs: (when, ms)."""
    image = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    over = threading.Event()

    def ask() -> None:
        due = time.perf_counter()
        while not over.wait(max(0.0, due - time.perf_counter())):
            session.answer(image, 2.0)
            found.append((due, (time.perf_counter() - due) * 1e3))
            due = max(due + 1 / FPS, time.perf_counter())

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def sent(net: Network) -> int:
    """Bytes that went to the node."""
    return int(Path(f"/sys/class/net/{net._port(0)}/statistics/tx_bytes").read_text())


def measure(place: Site, net: Network, session: FleetSession, heavy: list[Path], mbit: float) -> dict[str, Any]:
    idle: list[tuple[float, float]] = []
    with frames(session, idle):
        time.sleep(IDLE_S)
    served: list[tuple[float, float]] = []
    pull = Pull(heavy[0], place)
    with frames(session, served):
        time.sleep(1.0)
        pull.run()
    during = [ms for at, ms in served if pull.shares[0][0] <= at <= pull.ended]
    alone = Pull(heavy[1], place)
    alone.run()
    cut = Pull(heavy[2], place)
    before, running = sent(net), threading.Thread(target=cut.run)
    running.start()
    while not cut.shares or cut.shares[-1][1] < 0.5:
        time.sleep(0.005)
    at = cut.shares[-1][1]
    net.cut(0)
    time.sleep(CUT_S)
    healed = time.perf_counter()
    net.heal(0)
    running.join()
    undeploy("heavy", place.link("operator", "operator"))
    p50 = statistics.median(ms for _, ms in idle)
    return {
        "idle_p50_ms": round(p50, 2),
        "serving_p50_ms": round(statistics.median(during), 2),
        "added_ms": round(statistics.median(during) - p50, 2),
        "serving_p95_ms": round(statistics.quantiles(during, n=20)[-1], 2),
        "frames": len(during),
        "serving_share": round(pull.mbit_s / mbit, 3),
        "alone_share": round(alone.mbit_s / mbit, 3),
        "cut_at": round(at, 3),
        "cut_again": round((sent(net) - before) / cut.size - 1, 3),
        "cut_resumed_s": round(next(when for when, share in cut.shares if share > at and when > healed) - healed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=50)
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as scratch, network(1) as net, site(network=net) as place:
        light = noop_bundle(Path(scratch) / "frames", parts=1, image_side=SIDE, features=FEATURES)
        net.slow(0, given.mbit)
        place.edgevit(NODE)
        link = place.link("client", "client")
        place.wait_live(NODE)
        deploy(light, place.link("operator", "operator"), name="frames")
        bus = open_bus(link, "client")
        client = FleetClient(bus, Names())
        with FleetSession(light, client) as session:
            client.wait(session.revision, session.parts, 10)
            for repeat in range(given.repeats):
                heavy = [
                    heavy_bundle(Path(scratch) / f"heavy-{repeat}-{kind}", int(given.mb * 1e6)) for kind in range(3)
                ]
                found.append(measure(place, net, session, heavy, given.mbit))
                print(json.dumps(found[-1]), flush=True)
        client.close()
        bus.close()
    record = {
        "benchmark": "fleet_deploy",
        "mb": given.mb,
        "mbit": given.mbit,
        "fps": FPS,
        "frame_bytes": SIDE * SIDE * 3,
        "median": {key: statistics.median(one[key] for one in found) for key in found[0]},
        "repeats": found,
        "machine": environment.collect().record(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fleet_deploy.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    print(json.dumps(record["median"], indent=2))


if __name__ == "__main__":
    main()
