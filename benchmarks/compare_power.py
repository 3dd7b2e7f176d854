"""Does `edgevit compare` claim what is not there, and find what is? Run alone, on a machine that does nothing else.

    python benchmarks/compare_power.py [--trials 100] [--only real|simulated] [--seconds S] [--note TEXT]

A is vit_nano on ONNX Runtime with one thread. B is A itself (nothing may be claimed), or A whose every call is followed
by a busy-wait of 5 % of the call's own time (it has to be found). Targets: at most 1 claim in 100 of the former, at
least 95 in 100 of the latter.

real       edgevit.profiles.compare as users call it, end to end, each trial in a fresh process, with its defaults
simulated  the same blocks and statistics on the times of single calls that were recorded here one after another,
           replayed from random places: the machine's own noise, with its bursts and drifts, as often as one likes

Writes benchmarks/results/compare_power.json after every ten trials.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgevit import build
from edgevit.artifact.files import write_atomically
from edgevit.artifact.opened import Artifact
from edgevit.profiles import environment
from edgevit.profiles.compare import compare
from edgevit.profiles.interleave import Comparison, Schedule, interleave, outside_band
from edgevit.profiles.measure import load_feeds
from edgevit.profiles.ranking.race import SCHEDULE, SECONDS
from edgevit.registry import version_of
from edgevit.request import ExportRequest, ModelChoice
from edgevit.runtimes import feeds
from edgevit.runtimes.base import open_session

RESULTS = Path(__file__).parent / "results" / "compare_power.json"
MODEL, DRAG = "vit_nano", 0.05
RECORD_S = 60.0
PLUGIN = f"""
import time
from edgevit.registry import Row
from edgevit.runtimes.onnxruntime import OnnxRuntime

class Dragged(OnnxRuntime):
    name = "dragged"
    def open(self, artifact, **options):
        session = super().open(artifact, **options)
        run, clock = session._run, time.perf_counter
        def slower(feeds):
            begun = clock()
            found = run(feeds)
            now = clock()
            end = now + {DRAG} * (now - begun)
            while clock() < end:
                pass
            return found
        session._run = slower
        return session

DRAGGED = Row("dragged", "dragruntime:Dragged", "edgevit", ("onnxruntime",), "5 % slower", formats=("onnx",))
"""
KINDS = {"equal": ("onnxruntime", "onnxruntime"), "slower by 5 %": ("onnxruntime", "dragged")}


def install_plugin(folder: Path) -> None:
    """The dragged runtime, where this process and its workers find it."""
    (folder / "dragruntime.py").write_text(PLUGIN)
    info = folder / "dragruntime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dragruntime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgevit.runtimes]\ndragged = dragruntime:DRAGGED\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def export(folder: Path) -> Artifact:
    return build.artifact(ExportRequest(ModelChoice(MODEL, weights="digits"), ("onnx",), out=folder / MODEL, threads=1))


def real_trial(path: Path, kind: str, seconds: float) -> dict[str, Any]:
    """One comparison by users' own means."""
    begun = time.perf_counter()
    found = compare(path, path, runtimes=KINDS[kind], threads=1, seconds=seconds)
    return {
        "claimed": found.claimed,
        "right": found.claimed and found.ratio.value > 1,
        "ratio": asdict(found.ratio),
        "rounds": [{**asdict(one.ratio), "blocks": one.blocks, "correlation": one.correlation} for one in found.rounds],
        "seconds": time.perf_counter() - begun,
    }


def recorded(path: Path, folder: Path) -> list[int]:
    """Nanoseconds of every call of one session, one after another."""
    artifact = Artifact.open(path)
    rows = load_feeds(feeds.write(artifact, folder / "rows.npz", batch=1, data=None))
    clock, taken = time.perf_counter_ns, []
    with open_session(artifact, "onnxruntime", threads=1) as session:
        end = clock() + RECORD_S * 1e9
        while (start := clock()) < end:
            session.infer(rows[len(taken) % len(rows)])
            taken.append(clock() - start)
    return taken[len(taken) // 20 :]  # without the warm-up


class Replay:
    """A clock that calls move by recorded times, from a place on."""

    def __init__(self, times: Sequence[int], place: int) -> None:
        self.times, self.place, self.now = times, place, 0

    def candidate(self, factor: float) -> Callable[[], None]:
        def call() -> None:
            self.now += round(factor * self.times[self.place % len(self.times)])
            self.place += 1

        return call


def simulated_trial(times: Sequence[int], kind: str, schedule: Schedule, rng: random.Random) -> dict[str, Any]:
    """Rounds as `compare` runs them: a second one where the first shows a difference."""
    begun = time.perf_counter()
    rounds: list[Comparison] = []
    for _ in range(2):
        replay = Replay(times, rng.randrange(len(times)))
        calls = {"a": replay.candidate(1.0), "b": replay.candidate(1.0 if kind == "equal" else 1 + DRAG)}
        plan = replace(schedule, seed=rng.randrange(2**32))
        rounds.append(interleave(calls, plan, clock=lambda replay=replay: replay.now).compare("a", "b"))
        if not rounds[-1].claimed:
            break
    sides = [outside_band(one.ratio) for one in rounds]
    claimed = len(rounds) == 2 and abs(sum(sides)) == 2
    return {
        "claimed": claimed,
        "right": claimed and sides[0] > 0,
        "rounds": [{**asdict(one.ratio), "blocks": one.blocks, "correlation": one.correlation} for one in rounds],
        "seconds": time.perf_counter() - begun,
    }


def summary(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over trials of one kind."""
    count = len(trials)
    return {
        "trials": count,
        "claimed": sum(trial["claimed"] for trial in trials),
        "claimed_in_the_first_round": sum(len(trial["rounds"]) > 1 for trial in trials),
        "right": sum(trial["right"] for trial in trials),
        "median_seconds": sorted(trial["seconds"] for trial in trials)[count // 2] if count else None,
        "most_seconds": max((trial["seconds"] for trial in trials), default=None),
    }


def judged(found: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Whether the shares that were asked for are kept."""
    equal, slower = found["equal"], found["slower by 5 %"]
    return {
        "at most 1 of 100 equal pairs claimed": equal["claimed"] <= 0.01 * equal["trials"],
        "at least 95 of 100 slowdowns found": slower["right"] >= 0.95 * slower["trials"],
    }


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    asked = _arguments()
    schedule = replace(SCHEDULE, limit_s=asked.seconds / 2)
    record: dict[str, Any] = {
        "environment": environment.collect().record(),
        "versions": {name: version_of(name) for name in ("edgevit", "onnxruntime", "numpy")},
        "model": MODEL,
        "threads": 1,
        "drag": DRAG,
        "schedule": asdict(schedule),
        "note": asked.note,
        "results": {},
        "trials": {},
    }
    with tempfile.TemporaryDirectory(prefix="edgevit-power-") as scratch:
        folder = Path(scratch)
        install_plugin(folder)
        path = export(folder).path
        ways: dict[str, Callable[[str], dict[str, Any]]] = {}
        if asked.only in ("", "simulated"):
            say(f"recording {RECORD_S:g} s of single calls")
            times, rng = recorded(path, folder), random.Random(0)
            record["recorded_calls"] = len(times)
            ways["simulated"] = lambda kind: simulated_trial(times, kind, schedule, rng)
        if asked.only in ("", "real"):
            ways["real"] = lambda kind: real_trial(path, kind, asked.seconds)
        for way, trial in ways.items():
            _run(way, trial, asked.trials, record, asked.out)
    record["load_1min_after"] = environment.collect().load_1min
    _save(record, asked.out)
    for way, kinds in record["results"].items():
        for kind, counts in kinds.items():
            print(f"{way}, {kind}: {json.dumps(counts)}")
        print(f"{way}: {record['judged'][way]}")


def _run(way: str, trial: Callable[[str], dict[str, Any]], count: int, record: dict[str, Any], out: Path) -> None:
    """Trials of both kinds in turn, so that an hour of noise hits both alike."""
    trials: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    record["trials"][way] = trials
    for number in range(count):
        for kind, taken in trials.items():
            taken.append(trial(kind))
        record["results"][way] = {kind: summary(taken) for kind, taken in trials.items()}
        record.setdefault("judged", {})[way] = judged(record["results"][way])
        if (number + 1) % 10 == 0:
            say(f"{way}: {number + 1} of {count}: {[counts['claimed'] for counts in record['results'][way].values()]}")
            _save(record, out)


def _save(record: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(exist_ok=True)
    write_atomically(out, json.dumps(record, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="of each kind and way")
    parser.add_argument("--only", default="", choices=("real", "simulated"), help="one way only")
    parser.add_argument("--seconds", type=float, default=2 * SECONDS, help="that both rounds may take")
    parser.add_argument("--note", default="", help="what else is to be known about this run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
