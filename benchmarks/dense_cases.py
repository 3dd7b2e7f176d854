"""Every model in a folder of Python files on every target: verified, built, declined or failed, with the sentence.

    python benchmarks/dense_cases.py FOLDER [--only TEXT] [--targets onnx,coreml] [--one FILE.py:FACTORY] [--fresh]

A model is a function at the top of a file that needs no argument and is no private one, or in a file without any such
function a class that needs none. Each cell is one ``edgevit export FILE.py:FACTORY -t TARGET --json`` in a process of
its own, one at a time, within --limit seconds. Models that take other things than one image find their rows in
``--inputs FOLDER`` as FILE-FACTORY.npz. Cells that the results have are kept unless --fresh is given, so an interrupted
run goes on where it stopped. Writes results/dense_cases.json, and the table as Markdown beside it.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgevit import registry
from edgevit.artifact.files import write_atomically
from edgevit.profiles import environment

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "dense_cases.json"
DECLINED = 4  # the exit code of what a target cannot hold
TIMED_OUT = 124
HEAD = """# Dense and other models on every target

Written by `benchmarks/dense_cases.py`, which says how. Machine: {machine}. Commits: {commits}.
Random weights, each target's default precision. An error is the largest over the largest value of the reference, with
its tolerance; *built* is what this machine cannot run; *declined* is exit code 4. {counts}
"""


def models_in(file: Path) -> list[str]:
    """Names of what makes a model without being given anything, in order."""
    nodes = ast.parse(file.read_text("utf-8")).body
    made = [one.name for one in nodes if isinstance(one, ast.FunctionDef) and _needs_nothing(one.args, 0)]
    ready: list[str] = []
    for one in nodes:
        if isinstance(one, ast.ClassDef) and _is_ready(one, ready):
            ready.append(one.name)
    return [name for name in made or ready if not name.startswith("_")]


def _is_ready(made: ast.ClassDef, ready: list[str]) -> bool:
    own = [one for one in made.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    if own:
        return _needs_nothing(own[0].args, 1)
    return any(isinstance(base, ast.Name) and base.id in ready for base in made.bases)


def _needs_nothing(given: ast.arguments, own: int) -> bool:
    return len(given.posonlyargs) + len(given.args) - own <= len(given.defaults) and None not in given.kw_defaults


def cell(folder: Path, model: str, target: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One export in a process of its own, as a row of the table."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-P", "-m", "edgevit.cli", "export", str(folder / model), "-t", target, "--json"]
        command += ["-q", "-o", str(Path(scratch, "artifact"))]
        if asked.inputs and (rows := asked.inputs / f"{model.replace('.py:', '-')}.npz").is_file():
            command += ["--inputs", str(rows)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=asked.limit)
            found = _outcome(ran.returncode, ran.stdout, ran.stderr)
        except subprocess.TimeoutExpired:
            found = {"outcome": "failed", "exit_code": TIMED_OUT, "why": f"no answer within {asked.limit:g} s"}
    seconds = round(time.perf_counter() - begun, 1)
    return {"model": model, "target": target, **found, "seconds": seconds, "commit": commit()}


def _outcome(code: int, out: str, said: str) -> dict[str, Any]:
    if code:
        lines = [line.strip() for line in said.splitlines()]
        told = [line for line in lines if line.startswith(("error: ", "next: "))] or lines[-1:]
        why = "; ".join(told).removeprefix("error: ")
        return {"outcome": "declined" if code == DECLINED else "failed", "exit_code": code, "why": why}
    (made,) = json.loads(out)
    parity = made["parity"]
    kept = {"max_rel": parity["max_rel"], "tolerance": parity["tolerance"], "bytes": made["bytes"]}
    return {"outcome": parity["status"], "exit_code": 0, "why": parity["reason"], **kept}


def commit() -> str:
    """The state of this checkout: its commit, with a + where files differ from it."""
    ran = ("git", "-C", str(ROOT), "describe", "--always", "--abbrev=9", "--dirty=+")
    return subprocess.run(ran, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    asked = _arguments()
    targets = asked.targets.split(",")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    if asked.results.exists():
        found = {(row["model"], row["target"]): row for row in json.loads(asked.results.read_text())["cells"]}
    for model, target in _wanted(asked, targets):
        if asked.fresh or (model, target) not in found:
            row = found[model, target] = cell(asked.folder, model, target, asked)
            print(f"{model} {target}: {words(row)} ({row['seconds']:.0f} s)", file=sys.stderr, flush=True)
            save(asked.results, found)
    print(table(found))
    return 0


def _wanted(asked: argparse.Namespace, targets: list[str]) -> Iterator[tuple[str, str]]:
    names = [f"{file.name}:{name}" for file in sorted(asked.folder.glob("*.py")) for name in models_in(file)]
    if asked.one and asked.one not in names:
        raise SystemExit(f"{asked.folder} has no model {asked.one}; it has {', '.join(names)}")
    chosen = [asked.one] if asked.one else [name for name in names if asked.only in name]
    return ((model, target) for model in chosen for target in targets)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of Python files")
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose FILE.py:FACTORY holds TEXT")
    parser.add_argument("--one", default="", metavar="FILE.py:FACTORY", help="this model only")
    parser.add_argument("--targets", default="onnx,coreml,tvm,tensorrt")
    parser.add_argument("--inputs", type=Path, metavar="FOLDER", help="rows of models that take no image")
    parser.add_argument("--limit", type=float, default=900.0, metavar="SECONDS", help="for each cell")
    parser.add_argument("--fresh", action="store_true", help="try again what the results have")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to go on with and to write")
    return parser.parse_args()


def save(path: Path, found: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The results, and the table beside them."""
    rows = sorted(found.values(), key=lambda row: (row["model"], list(registry.EXPORTERS).index(row["target"])))
    record = {"environment": environment.collect().record(), "cells": rows}
    write_atomically(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    counts = Counter((row["target"], row["outcome"]) for row in rows)
    machine = record["environment"]["cpu"], record["environment"]["cores"], record["environment"]["arch"]
    head = HEAD.format(
        machine="{}, {} cores, {}".format(*machine),
        commits=", ".join(dict.fromkeys(row["commit"] for row in rows)),
        counts="; ".join(f"{target}: {count} {outcome}" for (target, outcome), count in sorted(counts.items())),
    )
    write_atomically(path.with_suffix(".md"), f"{head}\n{table(found)}\n")


def table(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Markdown: a line a model, a column a target."""
    targets = [name for name in registry.EXPORTERS if any(target == name for _, target in found)]
    lines = [["model", *targets], ["---"] * (len(targets) + 1)]
    for model in sorted({model for model, _ in found}):
        cells = [f"{words(row)}, {row['seconds']:.0f} s" if (row := found.get((model, one))) else "" for one in targets]
        lines.append([f"`{model}`", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def words(row: dict[str, Any]) -> str:
    """ "verified 3.0e-07 (1.0e-05)", "built: needs …", "declined: …", "failed (exit 5): …"."""
    why = str(row["why"]).replace("|", "\\|").replace("\n", " ")
    if row["outcome"] == "verified":
        return f"verified {row['max_rel']:.1e} ({row['tolerance']:.0e})"
    if row["outcome"] == "failed":
        return f"**failed** (exit {row['exit_code']}): {why}"
    return f"{'built' if row['exit_code'] == 0 else row['outcome']}: {why}"


if __name__ == "__main__":
    sys.exit(main())
