"""Tuned schedules by workload and target: what was found once is never searched for again.

The user's own records are in one JSON file a target below ``$EDGEVIT_HOME/tvm``, measured on exactly that CPU and
number of cores. Records that ship with edgevit are by family ("x86_64-avx2"): measured on one CPU of the family, and
used only where the user has none. A record counts only while the knobs it was made for are those of the schedules.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgevit.artifact.files import write_atomically
from edgevit.errors import BadArtifact
from edgevit.export.tvm.targets import BuildTarget
from edgevit.home import home

FORMAT = 1
SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Record:
    """The best choice known for one workload.

    space      hash of the knobs that it chooses from
    us         microseconds of the choice, ``rule_us`` of the rules' own, both measured side by side
    trials     choices that were measured so far, ``seconds`` what that took
    finished   whether the search gave up on it: nothing was gained for long, or everything was tried
    """

    workload: str
    name: str
    choice: Mapping[str, int]
    space: str
    us: float
    rule_us: float
    trials: int
    seconds: float = 0.0
    finished: bool = False

    @property
    def gains(self) -> bool:
        """Whether the choice beat the rules'. Where it did not, the rules choose: they may have improved since."""
        return self.us < self.rule_us


def space_of(knobs: Mapping[str, Sequence[int]]) -> str:
    """A short hash of the names of knobs and of their values, in any order."""
    text = json.dumps({name: sorted(values) for name, values in knobs.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def user_file(target: BuildTarget, folder: Path | None = None) -> Path:
    """Where this user's records for ``target`` are, e.g. ``~/.edgevit/tvm/x86_64-avx2-znver3-2.json``."""
    name = f"{target.family()}-{target.config.get('mcpu', 'generic')}-{target.cores}"
    return (folder or home() / "tvm") / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.json"


def shipped_file(family: str) -> Path:
    """Where the records of a family ship, if there are any."""
    return SHIPPED / f"{family}.json.gz"


class Database:
    """The records of one target: the user's, in ``path``, and below them those that ship."""

    def __init__(self, path: Path, shipped: Path | None = None) -> None:
        self.path = path
        self._own = _index(read(path))
        self._shipped = _index(read(shipped)) if shipped is not None else {}

    @classmethod
    def of(cls, target: BuildTarget, *, shipped: bool = True) -> Database:
        """The database of a target, as an export uses it; without what ships, only what was measured on it."""
        return cls(user_file(target), shipped_file(target.family()) if shipped else None)

    def find(self, workload: str, space: str) -> Record | None:
        """The user's record of a workload, else the shipped one; None when there is none for these knobs."""
        for records in (self._own, self._shipped):
            if (record := records.get(workload)) is not None and record.space == space:
                return record
        return None

    def own(self, workload: str, space: str) -> Record | None:
        """The user's record only: what was measured on this very target."""
        record = self._own.get(workload)
        return record if record is not None and record.space == space else None

    def ships(self, record: Record) -> bool:
        """Whether ``record`` came with edgevit."""
        return self._shipped.get(record.workload) is record

    def put(self, record: Record) -> None:
        """Take a record in place of the one of its workload, and write the file at once, in one rename."""
        self._own[record.workload] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self._own.values())

    def __len__(self) -> int:
        return len(self._own)


def _index(records: Iterable[Record]) -> dict[str, Record]:
    return {record.workload: record for record in records}


def read(path: Path) -> list[Record]:
    """The records in a file, plain or gzipped; none when there is no file. BadArtifact when it holds something else."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        stored = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']}")
        return [Record(**entry) for entry in stored["records"]]
    except (ValueError, TypeError, KeyError, OSError, EOFError) as exc:
        raise BadArtifact(f"{path} holds no tuning records: {exc}", hint="delete the file: it is made anew") from exc


def write(path: Path, records: Iterable[Record]) -> None:
    """Write records to a file, gzipped where its name says so (then the same records give the same bytes)."""
    rows = [asdict(replace(record, choice=dict(record.choice))) for record in records]
    rows.sort(key=lambda row: row["workload"])
    text = json.dumps({"format": FORMAT, "records": rows}, indent=None if path.suffix == ".gz" else 1)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        write_atomically(path, text + "\n")
