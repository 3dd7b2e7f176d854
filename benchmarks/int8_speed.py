"""Artifacts in integers, and in bf16, against ONNX Runtime's fp32 of the same model, on the same cores. Run alone.

    python benchmarks/int8_speed.py [--threads 1 2] [--quick] [--artifacts FOLDER] [MODEL …]

Every model is exported for ONNX, OpenVINO and TVM, its weights random (seed 0), and all sessions run interleaved (ABBA
blocks) on the same image, in a process of its own for each number of threads: where a session's memory lies follows
from what ran in the process before, and two threads were seen to take 1.8 times as long after a session of one. A
figure is the ratio of p50s, to ONNX Runtime's fp32, with its 95 % interval; ``ratio`` is that of int8 on ONNX Runtime,
beside its goal, the ratio of sizes, and how many operators ran in integers after the engine's fusion; ``best`` is the
fastest artifact that was verified, beside a goal of its own, as TVM's int8 has one. ``--artifacts`` keeps what was
exported, and takes it again. Writes benchmarks/results/int8_speed.json (``--quick``: int8_speed-quick.json) and prints
the lines.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
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
PACKAGES = ("edgevit", "onnxruntime", "openvino", "apache-tvm", "torch", "numpy")
FULL = Schedule(blocks=21, turn_s=0.5, turn_runs=5, warm_runs=2)
QUICK = Schedule(blocks=9, turn_s=0.1, turn_runs=3, warm_runs=1)
# name in the results -> target and precision
BUILDS = {
    "fp32": ("onnx", "fp32"),
    "int8": ("onnx", "int8"),
    "openvino fp32": ("openvino", "fp32"),
    "openvino bf16": ("openvino", "bf16"),
    "openvino int8": ("openvino", "int8"),
    "tvm fp32": ("tvm", "fp32"),
    "tvm int8": ("tvm", "int8"),
}
BEST = 0.32  # of one thread, that the best artifact is to reach
TVM = 0.40  # and that of TVM in int8
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
    parser.add_argument("--artifacts", type=Path, help="folder of artifacts, MODEL/TARGET-PRECISION in it")
    asked = parser.parse_args()
    machine = environment.collect().record()
    rows: list[dict[str, Any]] = []
    for name in asked.models:
        for row in measure(name, asked.threads, QUICK if asked.quick else FULL, asked.artifacts):
            rows.append(row)
            print(lines(row), flush=True)
            save(rows, machine, quick=asked.quick)


def save(rows: list[dict[str, Any]], machine: dict[str, Any], *, quick: bool) -> None:
    record = {
        "environment": machine,
        "load_1min_after": environment.collect().load_1min,
        "versions": {name: version_of(name) for name in PACKAGES},
        "batch": 1,
        "schedule": asdict(QUICK if quick else FULL),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    file = "int8_speed-quick.json" if quick else "int8_speed.json"
    (RESULTS / file).write_text(json.dumps(record, indent=1) + "\n")


def measure(name: str, threads: list[int], schedule: Schedule, kept: Path | None) -> Iterator[dict[str, Any]]:
    """A row for each number of threads."""
    with tempfile.TemporaryDirectory(prefix="edgevit-int8-speed-") as scratch:
        built, seconds = {}, {}
        for which, (target, precision) in BUILDS.items():
            folder, begun = (kept or Path(scratch)) / name / f"{target}-{precision}", time.monotonic()
            if folder.is_dir():
                built[which] = edgevit.Artifact.open(folder)
                continue
            built[which] = edgevit.export(name, target, out=folder, precision=precision)
            seconds[which] = round(time.monotonic() - begun, 1)
        yield from (row(name, count, built, seconds, schedule) for count in threads)


def row(name: str, threads: int, built: dict[str, Any], seconds: dict[str, float], plan: Schedule) -> dict[str, Any]:
    paths = {which: found.path for which, found in built.items()}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        taken = fresh.submit(in_turns, paths, threads, plan).result()
    ratios = {which: taken.compare("fp32", which).ratio for which in paths if which != "fp32"}
    goal, layers = GOALS.get(name, {}).get(threads), built["int8"].manifest.parity.layers
    verified = [which for which in ratios if built[which].manifest.parity.status == "verified"]
    best = min(verified, key=lambda which: ratios[which].value)
    return {
        "model": name,
        "threads": threads,
        "p50_ms": {which: taken.p50_ms(which) for which in paths},
        "ratio": asdict(ratios["int8"]),
        "ratios": {which: asdict(ratio) for which, ratio in ratios.items()},
        "best": {"artifact": best, "reached": ratios[best].value <= BEST if threads == 1 else None},
        "tvm": {"reached": ratios["tvm int8"].value <= TVM if threads == 1 else None},
        "goal": goal,
        "reached": None if goal is None else ratios["int8"].value <= goal,
        "size": built["int8"].size_bytes() / built["fp32"].size_bytes(),
        "seconds": seconds,
        "kernels": None if layers is None else layers.model_dump(),
        "block_medians_ms": {which: taken.block_medians(which) for which in paths},
    }


def in_turns(paths: dict[str, Path], threads: int, plan: Schedule) -> Interleaved:
    """All artifacts on the first golden image."""
    sessions = {which: edgevit.open_session(path, threads=threads) for which, path in paths.items()}
    inputs, _ = edgevit.Artifact.open(paths["fp32"]).golden()
    feed = {key: array[:1] for key, array in inputs.items()}
    return interleave({which: partial(session.infer, feed) for which, session in sessions.items()}, plan)


def lines(row: dict[str, Any]) -> str:
    found = []
    for which, ratio in row["ratios"].items():
        figures = f"{ratio['value']:.2f}× ({ratio['low']:.2f}-{ratio['high']:.2f})"
        told = f", goal {row['goal']:g}{'' if row['reached'] else ' missed'}" if which == "int8" and row["goal"] else ""
        mark = " best" if which == row["best"]["artifact"] else ""
        found.append(f"{row['model']:20} {row['threads']} threads  {which:14} {figures}{told}{mark}")
    return "\n".join(found)


if __name__ == "__main__":
    main()
