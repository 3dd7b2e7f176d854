"""Every model on every target: built, verified, error, size, seconds; or why not. Run alone; hours on two cores.

    python benchmarks/matrix.py [--only TEXT] [--targets onnx,tvm] [--precision fp16] [--results FILE] [--fresh]

Each model runs in a process of its own (``edgevit export MODEL -t … --json`` in library form), so that a crash or a
lack of memory is one line of the table. Rows already in the results (benchmarks/results/matrix.json) are kept unless
--fresh is given, so an interrupted run goes on where it stopped. Prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgevit import registry
from edgevit.artifact.files import write_atomically
from edgevit.models import zoo
from edgevit.profiles import environment

RESULTS = Path(__file__).parent / "results" / "matrix.json"
TIMM = (
    "resnet50", "mobileone_s1", "fastvit_t8", "convnext_atto", "mobilevit_xs", "levit_128s", "repvit_m0_9",
    "swin_tiny_patch4_window7_224",
)  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "matrix.md"
HEAD = """# Which model builds on which target

Written by `benchmarks/matrix.py` from `benchmarks/results/matrix.json`, which also has versions and layer counts.
Untrained weights (seed 0), each target's default precision, batch 1, 16 images. The seconds are of a whole export,
preparation included, on two cores of an AMD EPYC virtual machine that did other work as well: they show the order, not
the speed.
`unverified` is what this machine cannot run; sizes are of the model files.
"""
MODELS = (*zoo.names(), *(f"timm:{name}" for name in TIMM))
DEFAULT_PRECISION = "default"
TIMEOUT_S = 3600.0
COLUMNS = ("model", "target", "precision", "parity", "max rel. error", "tolerance", "size (MB)", "seconds", "why not")


def export_model(model: str, targets: list[str], precision: str | None) -> list[dict[str, Any]]:
    """One row per target; the seconds of each include the preparation that they share. Runs in the child."""
    from edgevit import build
    from edgevit.request import ExportRequest, ModelChoice

    with tempfile.TemporaryDirectory() as folder:
        request = ExportRequest(
            ModelChoice(model), tuple(targets), precision, out=Path(folder), parent=True, timeout_s=TIMEOUT_S
        )
        return [_row(model, outcome) for outcome in build.exports(request)]


def _row(model: str, result: Any) -> dict[str, Any]:
    if result.artifact is None:
        why = "; ".join(filter(None, (str(result.error), result.error.hint)))
        return {"model": model, "target": result.subject, "exit_code": result.error.exit_code, "why": why}
    manifest = result.artifact.manifest
    return {
        "model": model,
        "target": manifest.target,
        "exit_code": 0,
        "precision": manifest.precision,
        "parity": manifest.parity.status,
        "why": manifest.parity.reason,
        "max_rel": manifest.parity.max_rel,
        "tolerance": manifest.parity.tolerance,
        "top1_agreement": manifest.parity.top1_agreement,
        "bytes": result.artifact.size_bytes(),
        "seconds": round(result.seconds, 1),
        "layers": dict(manifest.precision_report.layers),
        "versions": dict(manifest.versions),
    }


def in_child(model: str, targets: list[str], precision: str) -> list[dict[str, Any]]:
    """``export_model`` in a fresh process; its death is a row per target."""
    command = [sys.executable, __file__, "--child", model, "--targets", ",".join(targets), "--precision", precision]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=len(targets) * TIMEOUT_S)
        rows: list[dict[str, Any]] = json.loads(ran.stdout.strip().rpartition("\n")[2])
    except (subprocess.TimeoutExpired, ValueError):
        why = "the export process ended without an answer"
        rows = [{"model": model, "target": target, "exit_code": 1, "why": why} for target in targets]
    return [{**row, "asked": precision} for row in rows]


def main() -> None:
    asked = _arguments()
    targets = asked.targets.split(",")
    if asked.child:
        precision = None if asked.precision == DEFAULT_PRECISION else asked.precision
        print(json.dumps(export_model(asked.child, targets, precision)))
        return
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    if asked.results.exists():
        found = {_key(row): row for row in json.loads(asked.results.read_text())["rows"]}
    for model in (name for name in MODELS if asked.only in name):
        todo = [one for one in targets if asked.fresh or (model, one, asked.precision) not in found]
        for row in in_child(model, todo, asked.precision) if todo else []:
            found[_key(row)] = row
            print(_line(row), file=sys.stderr, flush=True)
        _save(asked.results, found)
    table = "\n".join([_cells(COLUMNS), _cells(["---"] * len(COLUMNS)), *map(_line, _ordered(found))])
    if asked.results == RESULTS:
        PAGE.write_text(f"{HEAD}\n{table}\n")
    print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose name holds TEXT")
    parser.add_argument("--targets", default=",".join(registry.EXPORTERS))
    parser.add_argument("--precision", default=DEFAULT_PRECISION, help="default (each target's own), fp32 or fp16")
    parser.add_argument("--fresh", action="store_true", help="measure again what the results file has")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to go on with and to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["model"], row["target"], row["asked"]


def _ordered(found: dict[tuple[str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    targets = list(registry.EXPORTERS)
    return sorted(found.values(), key=lambda row: (MODELS.index(row["model"]), targets.index(row["target"])))


def _save(path: Path, found: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    record = {"environment": environment.collect().record(), "rows": _ordered(found)}
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def _line(row: dict[str, Any]) -> str:
    if row["exit_code"]:
        return _cells([row["model"], row["target"], row["asked"], f"exit {row['exit_code']}", *"————", row["why"]])
    error = "—" if row["max_rel"] is None else f"{row['max_rel']:.1e}"
    size, why = f"{row['bytes'] / 1e6:.1f}", row["why"] or ""
    numbers = [error, f"{row['tolerance']:.1e}", size, f"{row['seconds']:.0f}", why]
    return _cells([row["model"], row["target"], row["precision"], row["parity"], *numbers])


def _cells(values: Any) -> str:
    return f"| {' | '.join(values)} |"


if __name__ == "__main__":
    main()
