"""How long a person waits for the commands of every day, and which stage took the time: run alone on the machine.

    python benchmarks/felt_speed.py [--runs 5] [--before CHECKOUT] [--no-bytecode]

Every command is a process of its own, in turns and in random order. With ``--before`` each is also run from an older
checkout (``git worktree add CHECKOUT REVISION``) in the same turns, and the ratio is shown. What earlier exports found
out is forgotten before each export but those "again". ``--no-bytecode`` also runs them as in containers that set
PYTHONDONTWRITEBYTECODE, where Python compiles every module anew; by default bytecode is kept. Stages are those that the
progress line names. Writes benchmarks/results/felt_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgevit.profiles import environment

HERE = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
# name -> (arguments, seconds that were asked for); ARTIFACT and OUT are filled in
NANO = ["export", "fmvit_nano", "--weights", "digits", "-t", "onnx", "--force", "-o", "OUT"]
SMALL = ["export", "fmvit_s", "-t", "onnx", "--force", "-o", "OUT"]
COMMANDS: dict[str, tuple[list[str], float]] = {
    "export fmvit_nano": (NANO, 5.0),
    "export fmvit_nano again": (NANO, 5.0),
    "export fmvit_s": (SMALL, 9.0),
    "export fmvit_s again": (SMALL, 9.0),
    "verify": (["verify", "ARTIFACT"], 1.2),
    "predict": (["predict", "ARTIFACT", "ARTIFACT/golden/0.png"], 0.9),
    "help": (["export", "--help"], 0.25),
}
STAGES = """
import json, sys, time
from edgevit import render
begun = time.perf_counter()
found, last = [], ["start", begun]
class Watched(render.Stages):
    def __call__(self, stage, fraction=None):
        now = time.perf_counter()
        if stage != last[0]:
            found.append((last[0], now - last[1]))
            last[:] = [stage, now]
        super().__call__(stage, fraction)
render.Stages = Watched
from edgevit.cli import main
try:
    main()
except SystemExit:
    pass
found.append((last[0], time.perf_counter() - last[1]))
print("STAGES " + json.dumps(found), file=sys.stderr)
"""


@dataclass(frozen=True)
class Way:
    """One way to run a command: from which checkout, with bytecode kept or not."""

    name: str
    checkout: Path
    bytecode: bool = True

    def environment(self, home: Path) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        own = {"PYTHONPATH": str(self.checkout), "EDGEVIT_HOME": str(home)}
        if (
            not self.bytecode
        ):  # an empty cache that nothing is written to: libraries' own .pyc files do not count either
            own |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(home / "no-bytecode")}
        return kept | own


def run(way: Way, arguments: list[str], home: Path, program: list[str]) -> tuple[float, str]:
    """(seconds, what it said on stderr)."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", *program, *arguments],
        env=way.environment(home),
        cwd=home,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"edgevit {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds, done.stderr


def own_home(name: str, home: Path) -> Path:
    """``$EDGEVIT_HOME`` of a command: as it was left for those "again", empty for the others."""
    own = home / ("kept" if name.endswith("again") else "empty")
    if not name.endswith("again"):
        shutil.rmtree(own, ignore_errors=True)
    own.mkdir(exist_ok=True)
    return own


def measure(ways: list[Way], runs: int, home: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds by command and way; a first turn, which writes bytecode and artifacts, is not counted."""
    filled = {
        (name, way.name): [
            one.replace("ARTIFACT", str(home / way.name / "fmvit_nano")).replace("OUT", str(home / way.name / given[1]))
            for one in given
        ]
        for name, (given, _) in COMMANDS.items()
        for way in ways
    }
    samples: dict[str, dict[str, list[float]]] = {name: {way.name: [] for way in ways} for name in COMMANDS}
    rng = random.Random(0)
    for turn in range(runs + 1):
        order = [(name, way) for name in COMMANDS for way in ways]
        for name, way in order if not turn else rng.sample(order, len(order)):
            (home / way.name).mkdir(exist_ok=True)
            seconds, _ = run(way, filled[name, way.name], own_home(name, home), ["-m", "edgevit.cli"])
            if turn:
                samples[name][way.name].append(seconds)
                print(f"{turn}/{runs} {name} ({way.name}): {seconds:.2f} s", file=sys.stderr)
    return samples


def stages(way: Way, home: Path) -> dict[str, list[tuple[str, float]]]:
    """The stages of the exports, seconds each."""
    found = {}
    for name, (given, _) in COMMANDS.items():
        if name.startswith("export"):
            arguments = [one.replace("OUT", str(home / "staged")) for one in given]
            _, said = run(way, arguments, own_home(name, home), ["-c", STAGES])
            line = next(line for line in said.splitlines() if line.startswith("STAGES "))
            found[name] = json.loads(line.removeprefix("STAGES "))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--no-bytecode", action="store_true")
    given = parser.parse_args()
    ways = [Way("now", HERE)]
    ways += [Way("before", given.before.resolve())] if given.before else []
    ways += [Way("no bytecode", HERE, bytecode=False)] if given.no_bytecode else []
    home = Path(tempfile.mkdtemp(prefix="felt-speed-"))
    try:
        samples, parts = measure(ways, given.runs, home), stages(ways[0], home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    record: dict[str, Any] = {"environment": environment.collect().record(), "samples_s": samples, "stages_s": parts}
    record["asked_s"] = {name: asked for name, (_, asked) in COMMANDS.items()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "felt_speed.json").write_text(json.dumps(record, indent=1) + "\n")
    table(samples, ways)
    for name, found in parts.items():
        longest = sorted(found, key=lambda one: -one[1])[:6]
        print(f"\n{name}: " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in longest))


def table(samples: dict[str, dict[str, list[float]]], ways: list[Way]) -> None:
    columns = [f"{way.name}, s" for way in ways] + [f"{way.name} ÷ now" for way in ways[1:]]
    print("| command | asked, s | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 2))
    for name, by_way in samples.items():
        times = [by_way[way.name] for way in ways]
        shown = [f"{median(one):.2f} ({min(one):.2f}–{max(one):.2f})" for one in times]
        ratios = [f"{median(one) / median(times[0]):.2f}" for one in times[1:]]
        print(f"| {name} | {COMMANDS[name][1]:g} | " + " | ".join([*shown, *ratios]) + " |")


if __name__ == "__main__":
    main()
