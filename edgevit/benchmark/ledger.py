"""What a benchmark has done so far, in the file benchmark.json of its folder: an interrupted one goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgevit.artifact.files import write_atomically
from edgevit.artifact.opened import Artifact
from edgevit.disk import writing
from edgevit.errors import BadArtifact, UsageError
from edgevit.foreign import read_json

FILE = "benchmark.json"
FORMAT = 1


class Ledger:
    """Exports by model and target, rows by model, target and runtime, rankings by model. Saved after every change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exports: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.rankings: dict[str, dict[str, Any]] = {}
        path = folder / FILE
        if not path.exists():
            return
        try:
            stored = read_json(
                path, "a record of a benchmark", error=BadArtifact, hint=f"delete {path}, or choose another -o"
            )
            if stored["format"] == FORMAT:
                self.exports = dict(stored["exports"])
                self.rankings = dict(stored.get("rankings", {}))
                self.rows = {_key(row["model"], row["target"], row["runtime"]): row for row in stored["rows"]}
        except (KeyError, TypeError, ValueError) as exc:
            raise BadArtifact(f"{path} cannot be read: {exc}", hint=f"delete {path}, or choose another -o") from exc

    def save(self) -> None:
        """UsageError when the folder cannot be written: nothing would be kept."""
        record = {
            "format": FORMAT, "exports": self.exports, "rows": list(self.rows.values()), "rankings": self.rankings
        }  # fmt: skip
        with writing(self.folder, UsageError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def exported(self, model: str, target: str, request: Mapping[str, Any]) -> Artifact | None:
        """The artifact that the same request made, with its files proved to be as they were; None when there is none.

        BadArtifact when it was altered since.
        """
        entry = self.exports.get(_key(model, target))
        if entry is None or entry["request"] != request or "folder" not in entry:
            return None
        folder = self.folder / entry["folder"]
        if not folder.exists():
            return None
        artifact = Artifact.open(folder)
        artifact.check_files()
        return artifact

    def begin(self, model: str, target: str, request: Mapping[str, Any]) -> str:
        """Note that an export begins, and give the time since which an artifact found there is of this request."""
        entry = self.exports.get(_key(model, target))
        if entry is None or entry["request"] != request:
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            entry = self.exports[_key(model, target)] = {"request": dict(request), "started": started}
        self.save()
        return str(entry["started"])

    def finish(self, model: str, target: str, folder: Path) -> None:
        """Note where the artifact of a begun export is."""
        self.exports[_key(model, target)]["folder"] = folder.name
        self.save()

    def measured(self, model: str, target: str, runtime: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row that the same request measured, or None. One that missed a gate was measured all the same."""
        row = self.rows.get(_key(model, target, runtime))
        if row is None or row["request"] != request or row["profile"] is None or row["verdict"] in (None, "FAILED"):
            return None
        return row

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row, or replace an older one; one that says which runtime failed replaces one that did not get so
        far."""
        if row["runtime"] is not None:
            self.rows.pop(_key(row["model"], row["target"], None), None)
        self.rows[_key(row["model"], row["target"], row["runtime"])] = row
        self.save()


def _key(*parts: str | None) -> str:
    return " → ".join(part or "—" for part in parts)
