"""How long a person waits for ``edgevit --help``, beside a bare Python: run alone on the machine.

    python benchmarks/cli_startup.py [--runs 20]

Writes benchmarks/results/cli_startup.json and prints a table. Commands run in turns, in random order.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from edgevit.profiles import environment
from edgevit.profiles.statistics import percentile

RESULTS = Path(__file__).parent / "results"
LIMIT_MS = 250.0
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import edgevit'": [sys.executable, "-c", "import edgevit"],
    "edgevit --help": [str(Path(sys.executable).parent / "edgevit"), "--help"],
}


def measure(runs: int) -> dict[str, list[float]]:
    """Milliseconds of each command, ``runs`` times after one that warms the disk cache and writes the .pyc files."""
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    rng = random.Random(0)
    for turn in range(runs + 1):
        for name in rng.sample(list(COMMANDS), len(COMMANDS)):
            start = time.perf_counter_ns()
            subprocess.run(COMMANDS[name], check=True, stdout=subprocess.DEVNULL)
            if turn:
                samples[name].append((time.perf_counter_ns() - start) / 1e6)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    samples = measure(parser.parse_args().runs)
    bare = median(samples["python -c pass"])
    rows = {
        name: {
            "p50_ms": round(median(times), 2),
            "interval95_ms": percentile(times, 0.5).interval,
            "over_python_ms": round(median(times) - bare, 2),
            "ratio_to_python": round(median(times) / bare, 3),
            "samples_ms": times,
        }
        for name, times in samples.items()
    }
    within = median(samples["edgevit --help"]) <= LIMIT_MS
    record = {
        "environment": environment.collect().record(),
        "rows": rows,
        "help_limit_ms": LIMIT_MS,
        "help_within_limit": within,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cli_startup.json").write_text(json.dumps(record, indent=1) + "\n")
    print("| command | p50 ms | over bare Python ms | ratio |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| `{name}` | {row['p50_ms']} | {row['over_python_ms']} | {row['ratio_to_python']} |")
    print(f"\nedgevit --help within {LIMIT_MS:g} ms: {'yes' if within else 'no'}")


if __name__ == "__main__":
    main()
