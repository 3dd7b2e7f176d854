"""How often a quick run on this machine is STEADY, and whether a busy neighbour is seen. Run alone.

    python benchmarks/steady.py [--model vit_tiny] [--runs 10] [--threads 2]

The model is exported to ONNX, and ``edgevit profile --tier quick`` measures it again and again; then twice more beside
a process that keeps one core busy. Of ten quiet runs eight or more should be STEADY, and no run beside the hog may be.
Whether the machine is quiet is asked of something that has nothing to do with us: a bare loop of numpy's matrix product
on one thread for six seconds before and after each run, judged by the same rules.
Writes benchmarks/results/steady.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the bare loop

import numpy as np

import edgevit
from edgevit.profiles import environment, latency
from edgevit.profiles.verdict import doubts_about
from edgevit.registry import version_of

RESULTS = Path(__file__).parent / "results" / "steady.json"
PACKAGES = ("edgevit", "onnxruntime", "numpy")
HOG_RUNS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    machine = environment.collect().record()
    with tempfile.TemporaryDirectory(prefix="edgevit-steady-") as scratch:
        artifact = edgevit.export(asked.model, "onnx", out=Path(scratch) / asked.model, threads=asked.threads).path
        quiet = [between_bare_loops(artifact, asked.threads) for _ in range(asked.runs)]
        with hog():
            beside = [measured(artifact, asked.threads, "beside a hog") for _ in range(HOG_RUNS)]
    steady = sum(row["verdict"] == "STEADY" for row in quiet)
    calm = [row for row in quiet if row["machine_quiet"]]
    flagged = sum(row["verdict"] != "STEADY" for row in beside)
    record = {
        "environment": machine,
        "versions": {name: version_of(name) for name in PACKAGES},
        "model": asked.model,
        "threads": asked.threads,
        "steady": steady,
        "runs": len(quiet),
        "runs_on_a_quiet_machine": len(calm),
        "steady_on_a_quiet_machine": sum(row["verdict"] == "STEADY" for row in calm),
        "flagged_beside_a_hog": flagged,
        "passed": steady >= 0.8 * len(quiet) and flagged == len(beside),
        "rows": [*quiet, *beside],
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{steady} of {len(quiet)} quiet runs are STEADY {dict(Counter(row['verdict'] for row in quiet))}")
    print(f"of {len(calm)} with the machine quiet, {record['steady_on_a_quiet_machine']}")
    print(f"{flagged} of {len(beside)} runs beside a hog are flagged")


def between_bare_loops(artifact: Path, threads: int) -> dict[str, Any]:
    before = bare_loop()
    row = measured(artifact, threads, "quiet")
    said = [*before, *bare_loop()]
    return {**row, "machine_quiet": not said, "bare_loops": said}


def bare_loop(seconds: float = 6.0) -> list[str]:
    """What the samples of a loop that knows nothing of edgevit say against themselves."""
    square = np.random.default_rng(0).random((300, 300), np.float32)
    samples, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        for _ in range(5):
            square @ square
        samples.append((time.perf_counter() - begun) * 1e3)
    return [str(finding) for finding in doubts_about(samples)]


def measured(artifact: Path, threads: int, where: str) -> dict[str, Any]:
    found = latency.profile(artifact, tier="quick", threads=threads).record()
    names = ("verdict", "reasons", "p50_ms", "p90_ms", "samples")
    row = {"where": where, **{name: found[name] for name in names}}
    print(f"{where:12} {row['verdict']:10} p50 {row['p50_ms']:.2f} ms of {row['samples']} {row['reasons']}", flush=True)
    return row


@contextmanager
def hog() -> Iterator[None]:
    """A process that keeps one core busy meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
