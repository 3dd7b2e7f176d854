"""What the profiler adds to each inference: run alone on the machine.

    python benchmarks/profiler_overhead.py [--seconds 5] [--rounds 9]

The measuring loop of ``edgevit profile`` runs an inference that does nothing. What a call then takes, clock readings,
rotation of inputs, monitors' thread and all, is overhead. It is measured with the monitors and without, in turns, and
once more around a fixed calculation of about a millisecond, where what the watch takes from the caches shows, too.
Writes results/profiler_overhead.json; the limit is 20 µs for each inference.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from edgevit.profiles import environment, measure
from edgevit.profiles.monitors import Watch, standard_monitors

RESULTS = Path(__file__).parent / "results"
LIMIT_US = 20.0
BLOCK = bytes(1_000_000)


def nothing(feed: Any) -> Any:
    return feed


def calculation(feed: Any) -> Any:
    hashlib.sha256(BLOCK).digest()
    return feed


def per_call_us(infer: Callable[[Any], Any], seconds: float, *, watched: bool) -> dict[str, float]:
    """Wall time of the whole loop by call, and the sum of the samples by call, in µs."""
    clock, feeds = time.perf_counter_ns, [{"x": n} for n in range(4)]
    watch = Watch(standard_monitors()) if watched else nullcontext()
    gc.collect()
    gc.disable()
    try:
        with watch:
            begun = clock()
            taken = measure.sample(infer, feeds, clock, lambda ns, n: ns >= seconds * 1e9)  # type: ignore[arg-type]
            wall = clock() - begun
    finally:
        gc.enable()
    return {"wall_us": wall / len(taken) / 1e3, "mean_us": sum(taken) / len(taken) / 1e3, "p50_us": median(taken) / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    cases = [(infer, watched) for infer in (nothing, calculation) for watched in (False, True)]
    found: dict[str, list[dict[str, float]]] = {f"{infer.__name__}, watched={watched}": [] for infer, watched in cases}
    for number in range(asked.rounds):
        for infer, watched in cases if number % 2 else reversed(cases):
            found[f"{infer.__name__}, watched={watched}"].append(per_call_us(infer, asked.seconds, watched=watched))
    rows = {
        name: {key: round(median(one[key] for one in rounds), 3) for key in rounds[0]} for name, rounds in found.items()
    }
    empty = rows["nothing, watched=True"]["wall_us"]
    pairs = zip(found["calculation, watched=False"], found["calculation, watched=True"], strict=True)
    added = median(watched["wall_us"] - alone["wall_us"] for alone, watched in pairs)
    record = {
        "environment": environment.collect().record(),
        "rows": rows,
        "overhead_us": empty,
        "monitors_add_us_to_a_calculation": round(added, 3),
        "limit_us": LIMIT_US,
        "within_limit": empty <= LIMIT_US,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "profiler_overhead.json").write_text(json.dumps(record, indent=1) + "\n")
    print("| loop | wall µs / call | sample mean µs | sample p50 µs |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['wall_us']} | {row['mean_us']} | {row['p50_us']} |")
    kept = "kept" if record["within_limit"] else "NOT kept"
    print(f"\noverhead {empty:.2f} µs for each inference; limit {LIMIT_US:g} µs: {kept}")
    print(f"the monitors add {added:.2f} µs to a calculation of {rows['calculation, watched=False']['p50_us']:.0f} µs")


if __name__ == "__main__":
    main()
