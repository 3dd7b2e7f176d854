"""Reads profiles/*.json: what a report needs of one measurement, checked field by field."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from edgevit.errors import BadArtifact
from edgevit.profiles.environment import comparability_key
from edgevit.profiles.record import FORMAT
from edgevit.profiles.verdict import Verdict

Plain = str | int | float | bool | None
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\d*Z")


class _Part(BaseModel):
    """Unknown fields are left aside: a report needs less than a profile holds."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Percentile(_Part):
    estimate_ms: FiniteFloat | None = None
    raw_ms: FiniteFloat | None = None
    interval95_ms: tuple[FiniteFloat, FiniteFloat] | None = None
    needs: int = 0


class Process(_Part):
    """One worker process: its share of the samples, its warm-up and what the monitors saw meanwhile."""

    samples: int = Field(ge=0)
    load_ms: FiniteFloat
    first_ms: FiniteFloat
    warm_steady: bool = True
    warm_ms: list[FiniteFloat] = []
    timer_ms: FiniteFloat = 0.0
    monitors: dict[str, list[dict[str, float | None]]] = {}


class Layer(_Part):
    name: str
    op: str
    module: str | None = None
    unit: str
    ms: FiniteFloat = Field(ge=0)


class Layers(_Part):
    """Time by layer; ``total_ms`` is their sum, which is not the model's latency: timing single layers costs time."""

    source: str
    runs: int
    total_ms: FiniteFloat
    layers: list[Layer]


class Top1(_Part):
    """Accuracy of the artifact itself on labelled data."""

    data: str
    top1: float = Field(ge=0, le=1)
    top5: float | None = None
    images: int


class Stored(_Part):
    """One measurement as it was written. Times in ms."""

    runtime: str
    provider: str | None
    threads: int
    batch: int
    scenario: str
    tier: str
    verdict: Verdict
    unmonitored: list[str] = []
    p50_ms: FiniteFloat | None
    p90_ms: FiniteFloat | None
    p99_ms: FiniteFloat | None
    throughput: FiniteFloat | None
    load_ms: FiniteFloat | None
    first_ms: FiniteFloat | None
    peak_rss_bytes: int | None = None
    reasons: list[str] = []
    inputs: str = "golden"
    key_fields: dict[str, Plain]
    environment: dict[str, Any]
    files: dict[str, str] = {}
    percentiles: dict[str, Percentile] = {}
    processes: list[Process] = []
    samples_ms: list[FiniteFloat] = []
    layers: Layers | None = None
    accuracy: Top1 | None = None


@dataclass(frozen=True)
class Measurement:
    """A ``Stored`` with the file it came from and that file's hash. ``key`` is computed from the key fields anew."""

    file: Path
    sha256: str
    stored: Stored

    @property
    def key(self) -> str:
        return comparability_key(self.stored.key_fields)  # type: ignore[arg-type]  # floats and booleans hash alike

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
    try:
        raw = file.read_bytes()
        record = json.loads(raw)
    except (OSError, ValueError, RecursionError) as exc:
        raise BadArtifact(f"{file} cannot be read: {_first_line(exc)}") from exc
    if not isinstance(record, dict) or "format" not in record:
        raise BadArtifact(f"{file} is not a profile of edgevit")
    if record["format"] != FORMAT:
        raise BadArtifact(
            f"{file} is in profile format {record['format']!r}; this edgevit reads {FORMAT}: profile again"
        )
    try:
        stored = Stored.model_validate(record)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadArtifact(f"{file} is damaged: {where}: {first['msg'].lower()}") from exc
    if sum(process.samples for process in stored.processes) != len(stored.samples_ms):
        raise BadArtifact(f"{file} is damaged: it does not hold as many samples as its processes took")
    return Measurement(file, hashlib.sha256(raw).hexdigest(), stored)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
