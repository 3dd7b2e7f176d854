"""What the agent costs a device that it has nothing to do on: memory beyond Python with its engine, and time to start.

    python benchmarks/fleet_node.py [--runs 10]

memory  resident bytes of an idle ``edgevit node`` without a part, less those of a Python that has imported numpy and
        ONNX Runtime and nothing else; and of the same node once it holds a part that does nearly nothing, less those of
        such a Python with an ONNX Runtime session of that part, which has run once. Medians over the runs
start   from the start of the process until a client that was there before sees its live token: it can be asked then

The first start, which compiles the modules, is not counted: an installed package is compiled. Goals: 25 MB, 1 s. Writes
results/fleet_node.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from fleet_processes import Site, site

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fleet.tiny_fleet import noop_bundle
from waiting import wait_for

from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus
from edgevit.fleet.operating.deploy import deploy
from edgevit.profiles import environment
from edgevit.profiles.statistics import percentile

RESULTS = Path(__file__).parent / "results"
GOALS = {"beyond_mb": 25.0, "start_s": 1.0}
SETTLE_S = 2.0
ENGINE = "import numpy as np, onnxruntime as ort"
ONE_PART = """
made = ort.SessionOptions()
made.intra_op_num_threads = made.inter_op_num_threads = 1
session = ort.InferenceSession({model!r}, made, providers=["CPUExecutionProvider"])
session.run(None, {{"image": np.zeros((1, 224, 224, 3), np.uint8)}})"""


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def bare_mb(code: str) -> float:
    """Of a Python process that did that and waits."""
    command = [sys.executable, "-P", "-c", f"{code}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = resident_mb(process.pid)
        process.kill()
    return found


class Seen:
    """When which live token was seen first."""

    def __init__(self, bus: Bus) -> None:
        self.at: dict[str, float] = {}
        self.watch = bus.watch(Names().live(), self._change)

    def _change(self, key: str, here: bool) -> None:
        if here:
            self.at.setdefault(Names().steps(key)[1], time.perf_counter())


def started(place: Site, seen: Seen, name: str) -> float:
    began = time.perf_counter()
    place.edgevit(name)
    wait_for(lambda: name in seen.at)
    return seen.at[name] - began


def measured(runs: int) -> dict[str, Any]:
    with site() as place:
        os.environ |= {"PYTHONPYCACHEPREFIX": str(place.home / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        bundle = noop_bundle(place.home / "noop", 1)
        part = ENGINE + ONE_PART.format(model=str(bundle / "part-0" / "model.onnx"))
        bare = {"engine_mb": [], "engine_with_part_mb": []}
        for code in (ENGINE, part) * (runs + 1):
            bare["engine_mb" if code is ENGINE else "engine_with_part_mb"].append(bare_mb(code))
        bus = open_bus(place.link("operator", "operator"), "operator")
        seen = Seen(bus)
        starts, idle = [], []
        for turn in range(runs + 1):
            name = f"node-{turn}"
            starts.append(started(place, seen, name))
            time.sleep(SETTLE_S)
            idle.append(resident_mb(place.running[name].pid))
            if turn < runs:
                place.kill(name)
        deploy(bundle, place.link("operator", "operator"), plan=None)
        time.sleep(SETTLE_S)
        holding = resident_mb(place.running[name].pid)
        bus.close()
    kept = {name: round(median(values[1:]), 2) for name, values in bare.items()}
    return {
        **kept,
        "idle_mb": round(median(idle[1:]), 2),
        "idle_beyond_mb": round(median(idle[1:]) - kept["engine_mb"], 2),
        "holding_mb": round(holding, 2),
        "holding_beyond_mb": round(holding - kept["engine_with_part_mb"], 2),
        "start_s": round(median(starts[1:]), 3),
        "start_interval95_s": percentile(starts[1:], 0.5).interval,
        "starts_s": [round(one, 4) for one in starts[1:]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    found = measured(parser.parse_args().runs)
    results = {"goals": GOALS, "machine": environment.collect().record(), **found}
    (RESULTS / "fleet_node.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"idle node: {found['idle_mb']:.1f} MB, {found['idle_beyond_mb']:+.1f} MB beyond Python and its engine")
    print(f"with a part: {found['holding_mb']:.1f} MB, {found['holding_beyond_mb']:+.1f} MB beyond the engine with it")
    print(f"start: {found['start_s']:.2f} s, {min(found['starts_s']):.2f} to {max(found['starts_s']):.2f}")


if __name__ == "__main__":
    main()
