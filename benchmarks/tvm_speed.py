"""Our TVM artifacts against ONNX Runtime on the same cores: by the rules only, as shipped, and tuned. Run alone.

    python benchmarks/tvm_speed.py [--threads N] [--minutes M] [--quick] [MODEL …]

Every model is exported for ONNX and several times for TVM: with no tuning records (``rules``), with those that ship
with edgevit (``shipped``, the default export) and, with ``--minutes``, after a search of that length that starts from
the rules and not from the shipped records (``tuned``). ``$EDGEVIT_HOME`` is an empty folder for each model, so that
nothing this machine learnt before counts. The sessions run interleaved (ABBA blocks) in one process on the same image;
the figure is the ratio of p50s, TVM ÷ ONNX Runtime, with its 95 % interval. TVM counts with its input copied in, as in
a session. Writes benchmarks/results/tvm_speed.json (``--quick``: tvm_speed-quick.json) and prints a line a model.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edgevit
from edgevit.profiles import environment
from edgevit.profiles.interleave import Schedule, interleave
from edgevit.registry import version_of

RESULTS = Path(__file__).parent / "results"
MODELS = ("vit_tiny", "efficientformer_l1", "fmvit_s")
PACKAGES = ("edgevit", "apache-tvm", "apache-tvm-ffi", "onnxruntime", "torch", "numpy")
FULL = Schedule(blocks=21, turn_s=0.5, turn_runs=5, warm_runs=2)
QUICK = Schedule(blocks=9, turn_s=0.1, turn_runs=3, warm_runs=1)
RECORDS = {"rules": "none", "shipped": "all", "tuned": "own"}  # column -> the exporter's option
MOST = {"rules": 4.0, "shipped": 4.0, "tuned": 2.0}  # times ONNX Runtime's p50, by the issue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=0.0, help="of search per model for the tuned column; 0: none")
    parser.add_argument("--quick", action="store_true", help="9 short blocks: does it run at all")
    asked = parser.parse_args()
    schedule = QUICK if asked.quick else FULL
    machine = environment.collect().record()
    rows = []
    for name in asked.models:
        rows.append(measure(name, asked.threads, asked.minutes, schedule))
        print(line(rows[-1]), flush=True)
    record = {
        "environment": machine,
        "load_1min_after": environment.collect().load_1min,
        "versions": {name: version_of(name) for name in PACKAGES},
        "threads": asked.threads,
        "batch": 1,
        "minutes": asked.minutes,
        "schedule": asdict(schedule),
        "rows": [row for group in rows for row in group],
    }
    RESULTS.mkdir(exist_ok=True)
    name = "tvm_speed-quick.json" if asked.quick else "tvm_speed.json"
    (RESULTS / name).write_text(json.dumps(record, indent=1) + "\n")


def measure(name: str, threads: int, minutes: float, schedule: Schedule) -> list[dict[str, Any]]:
    """A row for each column. The search comes last: the shipped column would use what it finds."""
    with tempfile.TemporaryDirectory(prefix="edgevit-tvm-speed-") as scratch:
        os.environ["EDGEVIT_HOME"] = str(Path(scratch) / "home")
        built = {"onnx": export(name, "onnx", Path(scratch) / "onnx", threads)}
        for column, records in RECORDS.items():
            if column != "tuned" or minutes:
                search = {"minutes": minutes} if column == "tuned" else {}
                built[column] = export(name, "tvm", Path(scratch) / column, threads, records=records, **search)
        sessions = {which: edgevit.open_session(found["path"], threads=threads) for which, found in built.items()}
        inputs, _ = edgevit.Artifact.open(built["onnx"]["path"]).golden()
        feed = {key: array[:1] for key, array in inputs.items()}
        calls = {which: (lambda session=session: session.infer(feed)) for which, session in sessions.items()}
        taken = interleave(calls, schedule)
        for session in sessions.values():
            session.close()
    return [row(name, which, built[which], taken) for which in calls if which != "onnx"]


def export(name: str, target: str, out: Path, threads: int, **options: Any) -> dict[str, Any]:
    begun = time.monotonic()
    artifact = edgevit.export(name, target, out=out, threads=threads, options=options)
    found = artifact.manifest
    return {
        "path": artifact.path,
        "seconds": round(time.monotonic() - begun, 1),
        "error": found.parity.max_rel,
        "notes": list(found.notes),
    }


def row(name: str, which: str, built: dict[str, Any], taken: Any) -> dict[str, Any]:
    comparison = taken.compare("onnx", which)
    ratio = comparison.ratio
    return {
        "model": name,
        "column": which,
        "records": RECORDS[which],
        "p50_ms": taken.p50_ms(which),
        "onnxruntime_p50_ms": taken.p50_ms("onnx"),
        "ratio": asdict(ratio),
        "most": MOST[which],
        "passed": ratio.value <= MOST[which],
        **{key: value for key, value in built.items() if key != "path"},
        "block_medians_ms": {each: taken.block_medians(each) for each in ("onnx", which)},
    }


def line(rows: list[dict[str, Any]]) -> str:
    """A model's line of the table: p50 ÷ ONNX Runtime's with its interval, column by column."""
    cells = [
        f"{row['column']} {row['ratio']['value']:.2f}× ({row['ratio']['low']:.2f}-{row['ratio']['high']:.2f})"
        + ("" if row["passed"] else f", above {row['most']:g}")
        for row in rows
    ]
    return f"{rows[0]['model']:20} {'   '.join(cells)}"


if __name__ == "__main__":
    main()
