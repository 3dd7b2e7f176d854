"""Make the tuning records that ship with edgevit, for the family of this machine's CPU.

    python benchmarks/tvm_tune_zoo.py [--minutes 15] [--threads N] [MODEL …]

Each model is searched for ``--minutes`` and its records go into ``edgevit/export/tvm/records/FAMILY.json.gz``, in place
of those of the same kernels. What was found is kept after every kernel: Ctrl-C ends the search, and the file is written
from what there is. Run it on a machine that does nothing else, after every change of the schedules' knobs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from edgevit.export.prepare import prepare
from edgevit.export.tvm import compile as tvm_compile
from edgevit.export.tvm import targets, tuning
from edgevit.export.tvm.records.database import Database, Record, read, shipped_file, write
from edgevit.request import ExportRequest, ModelChoice
from edgevit.runtimes.base import usable_cores

MODELS = ("vit_tiny", "efficientformer_l1", "fmvit_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=usable_cores())
    asked = parser.parse_args()
    target = targets.host(asked.threads)
    path = shipped_file(target.family())
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.models:
            database = Database(Path(scratch) / f"{name}.json", path)
            found, finished = search(name, target, asked.minutes, database)
            write(path, merged(read(path), found))
            print(f"{name}: {summary(found)}; {path.name} holds {len(read(path))} records, {path.stat().st_size} bytes")
            if not finished:
                sys.exit(130)


def search(name: str, target: targets.BuildTarget, minutes: float, database: Database) -> tuple[list[Record], bool]:
    """The records of one model's kernels, and whether the search came to its end."""
    prepared = prepare(ExportRequest(ModelChoice(name), ("tvm",), threads=target.cores))
    module = tvm_compile.lower(prepared.capture.program)
    said = time.monotonic()

    def say(stage: str, share: float | None) -> None:
        nonlocal said
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"{name} {share or 0:4.0%} {stage}", file=sys.stderr)

    finished = True
    try:
        tuning.tune(module, target, minutes=minutes, threads=target.cores, progress=say, database=database)
    except KeyboardInterrupt:
        finished = False
    return read(database.path), finished


def merged(old: list[Record], new: list[Record]) -> list[Record]:
    """``old`` with the records of ``new`` in place of those of the same workloads; only what beats the rules ships."""
    return [record for record in {record.workload: record for record in (*old, *new)}.values() if record.gains]


def summary(records: list[Record]) -> str:
    gained = [record for record in records if record.gains]
    return f"{len(gained)} of {len(records)} kernels gained, {sum(record.trials for record in records)} trials"


if __name__ == "__main__":
    main()
