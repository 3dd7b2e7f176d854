"""int8 artifacts against fp32 ones of the same model, both by ONNX Runtime on the same cores. Run alone.

    python benchmarks/int8_speed.py [--threads 1 2] [--quick] [MODEL …]

Every model is exported twice for ONNX, its weights random (seed 0), and both sessions run interleaved (ABBA blocks) on
the same image, in a process of its own for each number of threads: where a session's memory lies follows from what
ran in the process before, and two threads were seen to take 1.8 times as long after a session of one. The figure is the
ratio of p50s, int8 ÷ fp32, with its 95 % interval, beside the goal, the ratio of sizes, and how many operators ran in
integers after the engine's fusion. Writes benchmarks/results/int8_speed.json (``--quick``: int8_speed-quick.json) and
prints a line for each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import edgevit
from edgevit.profiles import environment
from edgevit.profiles.interleave import Interleaved, Schedule, interleave
from edgevit.registry import version_of

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("edgevit", "onnxruntime", "torch", "numpy")
FULL = Schedule(blocks=21, turn_s=0.5, turn_runs=5, warm_runs=2)
QUICK = Schedule(blocks=9, turn_s=0.1, turn_runs=3, warm_runs=1)
# model -> threads -> the ratio it is to reach
GOALS = {
    "efficientformer_l1": {1: 0.45, 2: 0.55},
    "fmvit_s": {1: 0.48, 2: 0.60},
    "vit_tiny": {1: 0.45, 2: 0.50},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(GOALS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="9 short blocks: does it run at all")
    asked = parser.parse_args()
    machine = environment.collect().record()
    rows = []
    for name in asked.models:
        for row in measure(name, asked.threads, QUICK if asked.quick else FULL):
            rows.append(row)
            print(line(row), flush=True)
    record = {
        "environment": machine,
        "load_1min_after": environment.collect().load_1min,
        "versions": {name: version_of(name) for name in PACKAGES},
        "batch": 1,
        "schedule": asdict(QUICK if asked.quick else FULL),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    file = "int8_speed-quick.json" if asked.quick else "int8_speed.json"
    (RESULTS / file).write_text(json.dumps(record, indent=1) + "\n")


def measure(name: str, threads: list[int], schedule: Schedule) -> list[dict[str, Any]]:
    """A row for each number of threads."""
    with tempfile.TemporaryDirectory(prefix="edgevit-int8-speed-") as scratch:
        built, seconds = {}, {}
        for precision in ("fp32", "int8"):
            begun = time.monotonic()
            built[precision] = edgevit.export(name, "onnx", out=Path(scratch) / precision, precision=precision)
            seconds[precision] = round(time.monotonic() - begun, 1)
        return [row(name, count, built, seconds, schedule) for count in threads]


def row(name: str, threads: int, built: dict[str, Any], seconds: dict[str, float], plan: Schedule) -> dict[str, Any]:
    paths = {which: found.path for which, found in built.items()}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        taken = fresh.submit(in_turns, paths, threads, plan).result()
    ratio, goal = taken.compare("fp32", "int8").ratio, GOALS.get(name, {}).get(threads)
    layers = built["int8"].manifest.parity.layers
    return {
        "model": name,
        "threads": threads,
        "p50_ms": {which: taken.p50_ms(which) for which in paths},
        "ratio": asdict(ratio),
        "goal": goal,
        "reached": None if goal is None else ratio.value <= goal,
        "size": built["int8"].size_bytes() / built["fp32"].size_bytes(),
        "seconds": seconds,
        "kernels": None if layers is None else layers.model_dump(),
        "block_medians_ms": {which: taken.block_medians(which) for which in paths},
    }


def in_turns(paths: dict[str, Path], threads: int, plan: Schedule) -> Interleaved:
    """Both artifacts on the first golden image."""
    sessions = {which: edgevit.open_session(path, threads=threads) for which, path in paths.items()}
    inputs, _ = edgevit.Artifact.open(paths["fp32"]).golden()
    feed = {key: array[:1] for key, array in inputs.items()}
    return interleave({which: partial(session.infer, feed) for which, session in sessions.items()}, plan)


def line(row: dict[str, Any]) -> str:
    ratio, goal = row["ratio"], row["goal"]
    told = "" if goal is None else f", goal {goal:g}{'' if row['reached'] else ' missed'}"
    figures = f"{ratio['value']:.2f}× ({ratio['low']:.2f}-{ratio['high']:.2f}){told}; size {row['size']:.2f}"
    return f"{row['model']:20} {row['threads']} threads  {figures}"


if __name__ == "__main__":
    main()
