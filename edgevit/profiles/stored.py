"""Reads profiles/*.json: a profile's record, checked field by field, with the file it came from."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edgevit.errors import BadArtifact, first_line
from edgevit.foreign import read_bounded
from edgevit.profiles.record import PROFILE_FORMAT, Plain, ProfileRecord

MAX_BYTES = 512 << 20  # some 20 million samples
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\d*Z")


@dataclass(frozen=True)
class Measurement:
    """A profile's record with the file it came from and that file's hash."""

    file: Path
    sha256: str
    stored: ProfileRecord

    @property
    def series(self) -> tuple[Plain, ...]:
        """What makes two measurements of one artifact the older and the newer of the same thing."""
        it = self.stored
        return it.runtime, it.tier, it.threads, it.batch, it.scenario, it.provider, it.key_fields.get("device")

    @property
    def measured(self) -> str | None:
        """UTC time in the file's name, as "2026-01-31 12:00:00", or None."""
        found = _STAMP.match(self.file.name)
        return None if found is None else "{}-{}-{} {}:{}:{}".format(*found.groups())


def read(file: Path) -> Measurement:
    """BadArtifact, in one sentence, when the file is no profile of this format."""
    raw = read_bounded(file, MAX_BYTES, "a profile", error=BadArtifact)
    stored = _record(file, raw)
    if sum(process.samples for process in stored.processes) != len(stored.samples_ms):
        raise BadArtifact(f"{file} is damaged: it does not hold as many samples as its processes took")
    return Measurement(file, hashlib.sha256(raw).hexdigest(), stored)


def _record(file: Path, raw: bytes) -> ProfileRecord:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise BadArtifact(f"{file} cannot be read: {first_line(exc)}") from exc
    if not isinstance(found, dict) or "format" not in found:
        raise BadArtifact(f"{file} is not a profile of edgevit")
    if found["format"] != PROFILE_FORMAT:
        raise BadArtifact(
            f"{file} is in profile format {found['format']!r}; this edgevit reads {PROFILE_FORMAT}: profile again"
        )
    try:
        return ProfileRecord.model_validate(found)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadArtifact(f"{file} is damaged: {where}: {first['msg'].lower()}") from exc
