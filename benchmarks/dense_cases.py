"""Every model in a folder of Python files on every target: verified, built, declined or failed, with the sentence.

    python benchmarks/dense_cases.py FOLDER [--only TEXT] [--targets onnx,coreml] [--one FILE.py:FACTORY] [--fresh]
    python benchmarks/dense_cases.py --table

A model is a function at the top of a file that needs no argument and is no private one, or in a file without any such
function a class that needs none. Each cell is one ``edgevit export FILE.py:FACTORY -t TARGET --json`` in a process of
its own, one at a time, within --limit seconds. Models that take other things than one image find their rows in
``--inputs FOLDER`` as FILE-FACTORY.npz. Cells that the results have are kept unless --fresh is given, so an interrupted
run goes on where it stopped. Writes results/dense_cases/TARGET.json, a column each, so that columns run apart need no
merging; every cell says its commit. --table runs nothing and writes results/dense_cases.md from the columns there are.
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
RESULTS = ROOT / "benchmarks" / "results" / "dense_cases"
DECLINED = 4  # the exit code of what a target cannot hold
TIMED_OUT = 124
HEAD = """# Dense and other models on every target

Written by `benchmarks/dense_cases.py`, which says how. Machine: {machine}.
Random weights, each target's default precision. An error is the largest over the largest value of the reference, with
its tolerance; *built* is what this machine cannot run; *declined* is exit code 4. A cell ends with the seconds that it
took and the commit that it was run at (+: with changes on top). {counts}.
"""
Column = dict[str, dict[str, Any]]  # the cells of one target, by model


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
    begun, state = time.perf_counter(), commit()
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
    return {"model": model, "target": target, **found, "seconds": seconds, "commit": state}


def _outcome(code: int, out: str, said: str) -> dict[str, Any]:
    if code:
        lines = [line.strip() for line in said.splitlines()]
        told = (
            [line for line in lines if line.startswith(("error: ", "next: "))] or lines[-1:] or [f"ended with {code}"]
        )
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
    if asked.folder:
        for model, target in _wanted(asked, asked.targets.split(",")):
            column = read(asked.results, target)
            if asked.fresh or model not in column:
                row = column[model] = cell(asked.folder, model, target, asked)
                print(f"{model} {target}: {words(row)} ({row['seconds']:.0f} s)", file=sys.stderr, flush=True)
                save(asked.results, target, column)
    if asked.table:
        write_table(asked.results)
    return 0


def _wanted(asked: argparse.Namespace, targets: list[str]) -> Iterator[tuple[str, str]]:
    names = [f"{file.name}:{name}" for file in sorted(asked.folder.glob("*.py")) for name in models_in(file)]
    if asked.one and asked.one not in names:
        raise SystemExit(f"{asked.folder} has no model {asked.one}; it has {', '.join(names)}")
    chosen = [asked.one] if asked.one else [name for name in names if asked.only in name]
    return ((model, target) for model in chosen for target in targets)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of Python files")
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose FILE.py:FACTORY holds TEXT")
    parser.add_argument("--one", default="", metavar="FILE.py:FACTORY", help="this model only")
    parser.add_argument("--targets", default="onnx,coreml,tvm,tensorrt")
    parser.add_argument("--inputs", type=Path, metavar="FOLDER", help="rows of models that take no image")
    parser.add_argument("--limit", type=float, default=900.0, metavar="SECONDS", help="for each cell")
    parser.add_argument("--fresh", action="store_true", help="try again what the results have")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="columns to go on with")
    parser.add_argument("--table", action="store_true", help="write the columns as one page beside their folder")
    asked = parser.parse_args()
    if not (asked.folder or asked.table):
        parser.error("a folder of Python files to run, or --table")
    return asked


def read(results: Path, target: str) -> Column:
    """The cells that are there, by model."""
    path = results / f"{target}.json"
    return {row["model"]: row for row in json.loads(path.read_text("utf-8"))["cells"]} if path.exists() else {}


def save(results: Path, target: str, column: Column) -> None:
    """One target's cells, in the models' order."""
    results.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment.collect().record(), "cells": [column[model] for model in sorted(column)]}
    write_atomically(results / f"{target}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def write_table(results: Path) -> None:
    """Every column there is as one Markdown file beside the folder."""
    columns = {target: column for target in registry.EXPORTERS if (column := read(results, target))}
    made = (json.loads((results / f"{target}.json").read_text("utf-8"))["environment"] for target in columns)
    machines = dict.fromkeys(f"{one['cpu']}, {one['cores']} cores, {one['arch']}" for one in made)
    counts = Counter((target, outcome(row)) for target, column in columns.items() for row in column.values())
    told = "; ".join(f"{target}: {count} {how}" for (target, how), count in sorted(counts.items()))
    text = f"{HEAD.format(machine='; '.join(machines), counts=told)}\n{table(columns)}\n"
    write_atomically(results.with_suffix(".md"), text)


def table(columns: dict[str, Column]) -> str:
    """Markdown: a line a model, a column a target."""
    lines = [["model", *columns], ["---"] * (len(columns) + 1)]
    for model in sorted({model for column in columns.values() for model in column}):
        cells = [column.get(model) for column in columns.values()]
        told = (f"{words(row)}, {row['seconds']:.0f} s, {row['commit']}" if row else "" for row in cells)
        lines.append([f"`{model}`", *told])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def outcome(row: dict[str, Any]) -> str:
    """verified, built, declined or failed."""
    return "built" if row["outcome"] == "unverified" else str(row["outcome"])


def words(row: dict[str, Any]) -> str:
    """ "verified 3.0e-07 (1.0e-05)", "built: needs …", "declined: …", "failed (exit 5): …"."""
    why = str(row["why"]).replace("|", "\\|").replace("\n", " ")
    if row["outcome"] == "verified":
        return f"verified {row['max_rel']:.1e} ({row['tolerance']:.0e})"
    if row["outcome"] == "failed":
        return f"**failed** (exit {row['exit_code']}): {why}"
    return f"{outcome(row)}: {why}"


if __name__ == "__main__":
    sys.exit(main())
