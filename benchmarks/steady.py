"""How often a quick run on this machine is STEADY, and whether a busy neighbour is seen. Run alone.

    python benchmarks/steady.py [--model vit_tiny] [--runs 10] [--threads 2]

The model is exported to ONNX, and ``edgevit profile --tier quick`` measures it again and again; then twice more beside
a process that keeps one core busy. Of ten quiet runs eight or more should be STEADY, and no run beside the hog may be.
Writes benchmarks/results/steady.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import edgevit
from edgevit.profiles import environment, latency
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
        quiet = [measured(artifact, asked.threads, "quiet") for _ in range(asked.runs)]
        with hog():
            beside = [measured(artifact, asked.threads, "beside a hog") for _ in range(HOG_RUNS)]
    steady = sum(row["verdict"] == "STEADY" for row in quiet)
    flagged = sum(row["verdict"] != "STEADY" for row in beside)
    record = {
        "environment": machine,
        "versions": {name: version_of(name) for name in PACKAGES},
        "model": asked.model,
        "threads": asked.threads,
        "steady": steady,
        "runs": len(quiet),
        "flagged_beside_a_hog": flagged,
        "passed": steady >= 0.8 * len(quiet) and flagged == len(beside),
        "rows": [*quiet, *beside],
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{steady} of {len(quiet)} quiet runs are STEADY {dict(Counter(row['verdict'] for row in quiet))}")
    print(f"{flagged} of {len(beside)} runs beside a hog are flagged")


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
