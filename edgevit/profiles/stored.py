"""Reads profiles/*.json: a profile's record, checked field by field, with the file it came from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import BadArtifact
from edgevit.foreign import read_bounded
from edgevit.profiles.formats import checked, parsed
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
    stored = checked(parsed(file, raw), ProfileRecord, PROFILE_FORMAT, str(file), "profile", "profile again")
    if sum(process.samples for process in stored.processes) != len(stored.samples_ms):
        raise BadArtifact(f"{file} is damaged: it does not hold as many samples as its processes took")
    return Measurement(file, hashlib.sha256(raw).hexdigest(), stored)
