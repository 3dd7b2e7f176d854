"""What a benchmark was asked for, and its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgevit import registry, render
from edgevit.artifact.goodness import Quality, how_good
from edgevit.errors import EdgeVitError, MissingDependency, Unsupported
from edgevit.profiles import gates
from edgevit.profiles.gates import Figure
from edgevit.profiles.record import ProfileRecord
from edgevit.proof.accuracy import AccuracyCheck
from edgevit.proof.quality import QualityCheck
from edgevit.request import ExportRequest

OUT = Path("artifacts") / "benchmark"
COLUMNS = (
    "model", "target", "runtime", "size", "parity", "quality", "p50", "p90", "p99", "rows/s", "memory", "verdict",
)  # fmt: skip
MEASURED = (
    "provider", "threads", "tier", "p50_ms", "p90_ms", "p99_ms", "throughput", "peak_rss_bytes", "verdict", "samples",
    "key", "key_fields",
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkJob:
    """What ``edgevit benchmark`` was asked for.

    export     of the first model; the others are exported alike. Its data and threads are those of measurements too,
               its folder holds everything, its force does everything again
    runtimes   none: each target's preferred one; "all": every one that opens it; else those that are named
    rank_s     seconds of the race of a model's artifacts; None: the usual for so many
    everywhere whether "all" targets were asked for: then those of other machines fail no command
    """

    models: tuple[str, ...]
    export: ExportRequest
    runtimes: tuple[str, ...] = ()
    tier: str = "quick"
    provider: str | None = None
    fail_if: tuple[str, ...] = ()
    everywhere: bool = False
    rank_s: float | None = None

    @property
    def out(self) -> Path:
        return self.export.out or OUT

    def export_of(self, model: str) -> ExportRequest:
        """The export of one of the models."""
        return replace(self.export, model=replace(self.export.model, source=model), out=self.out, parent=True)


def target_names(names: Sequence[str]) -> tuple[str, ...]:
    """Targets asked for; "all" is every known one, because what cannot be built here is worth a line."""
    return tuple(registry.rows("exporter")) if "all" in names else tuple(dict.fromkeys(names))


def refusal(kind: registry.Kind, name: str, format: registry.Format = "torch") -> EdgeVitError | None:
    """Why this machine cannot build a target from models of a format, or run a runtime; None when it can."""
    row = registry.row(kind, name)
    try:
        here = row.on_this_machine(format)
    except Unsupported as error:
        return error
    if here.able:
        return None
    install = registry.pip_line(row.install)
    return MissingDependency(here.sentence, hint=install) if row.missing(format) else Unsupported(here.sentence)


@dataclass(frozen=True)
class Row:
    """One model on one target and runtime. What was not reached is None.

    runtime     None when the export failed
    size        bytes of the model files
    parity      of the golden pair on this runtime, a Parity as JSON; that of the manifest where it could not run
    accuracy    top-1 (and top-5) of the artifact on this runtime, where it is a classifier
    quality     the metric of its task there, where it is none
    profile     the measurement; ``saved`` is its file
    request     what a later run must ask for to take this row as it is
    reused      whether an earlier run measured it
    elsewhere   another machine's: "all" brought it in and this one cannot run it, which fails no command
    """

    model: str
    target: str
    runtime: str | None = None
    artifact: Path | None = None
    precision: str | None = None
    size: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None
    accuracy: AccuracyCheck | None = None
    quality: QualityCheck | None = None
    profile: ProfileRecord | None = None
    saved: str | None = None
    notes: tuple[str, ...] = ()
    error: EdgeVitError | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    reused: bool = False
    elsewhere: bool = False

    @property
    def subject(self) -> str:
        return f"{self.model} → {self.target}" + (f" on {self.runtime}" if self.runtime else "")

    def figures(self) -> dict[str, Figure]:
        """Everything a gate can ask for, with the reason where it is missing."""
        found = gates.figures_of(self.profile) if self.profile else {}
        parity = self.parity or {}
        return (
            found
            | gates.goodness(self.accuracy, self.quality)
            | {
                "size": Figure(self.size),
                "parity": Figure(parity.get("status")),
                "max_rel": Figure(parity.get("max_rel"), parity.get("reason") or "it was not verified"),
            }
        )

    def how_good(self) -> Quality | None:
        """How good its answers are on this runtime, whatever its task; None where nobody measured it."""
        return how_good(self.accuracy, self.quality)

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit benchmark --json`` lists, and that benchmark.json keeps."""
        measured = self.profile
        p95 = measured.percentiles.get("p95") if measured else None
        return {
            "model": self.model,
            "target": self.target,
            "runtime": self.runtime,
            "artifact": str(self.artifact) if self.artifact else None,
            "precision": self.precision,
            "bytes": self.size,
            "files": dict(self.files),
            "parity": dict(self.parity) if self.parity else None,
            "accuracy": self.accuracy.model_dump(mode="json") if self.accuracy else None,
            "quality": self.quality.model_dump(mode="json") if self.quality else None,
            **{name: getattr(measured, name, None) for name in MEASURED},
            "p95_ms": p95.estimate_ms if p95 else None,
            "reasons": list(measured.reasons) if measured else [],
            "profile": self.saved,
            "notes": list(self.notes),
            "exit_code": self.error.exit_code if self.error else 0,
            "error": str(self.error) if self.error else None,
            "hint": self.error.hint if self.error else None,
            "elsewhere": self.elsewhere,
            "reused": self.reused,
            "request": dict(self.request),
        }

    def cells(self) -> tuple[str, ...]:
        """A line of the table; the last cell of a failed row is its reason."""
        record, good = self.record(), self.how_good()
        rate, verdict = record["throughput"], record["verdict"] or "—"
        if self.error:  # a missed gate leaves the verdict standing; FAILED says no more than the error
            missed = "" if verdict in ("—", "FAILED") else f"{verdict}; "
            verdict = f"{missed}{self.error} (exit {self.error.exit_code})"
        return (
            self.model,
            self.target,
            self.runtime or "—",
            render.si(self.size, "B"),
            str(self.parity["status"]) if self.parity else "—",
            good.figure() if good else "—",
            *(render.ms(record[key]) for key in ("p50_ms", "p90_ms", "p99_ms")),
            "—" if rate is None else f"{rate:,.1f}",
            render.si(record["peak_rss_bytes"], "B"),
            verdict,
        )


def failures(rows: Sequence[Row]) -> list[Row]:
    """The rows that make the command fail, in order: the exit code is that of the first."""
    return [row for row in rows if row.error and not row.elsewhere]
