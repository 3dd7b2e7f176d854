"""Several profiles in one command: a failure is a result and the others go on, gates judge them, a table shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgevit import render
from edgevit.artifact.goodness import Quality
from edgevit.errors import EdgeVitError, GateMissed
from edgevit.profiles import gates
from edgevit.profiles.gates import Gate
from edgevit.profiles.latency import profile
from edgevit.profiles.layers import Layers, Requirement, parse_requirement
from edgevit.profiles.record import ProfileRecord

Progress = Callable[[str, float | None], None]

COLUMNS = ("artifact", "runtime", "threads", "p50", "p90", "p99", "rows/s", "load", "first", "memory", "verdict")
LAYER_COLUMNS = ("by", "name", "ms", "share")
SHOWN_LAYERS = 8


@dataclass(frozen=True)
class Outcome:
    """One artifact's profile, an error, or both. ``node`` and ``saved`` say on which node of a fleet it was measured
    and where its file is; without, it was here."""

    subject: str
    profile: ProfileRecord | None = None
    error: EdgeVitError | None = None
    node: str | None = None
    saved: Path | None = None

    @property
    def measured(self) -> ProfileRecord:
        """The profile; ValueError for what has none."""
        if self.profile is None:
            raise ValueError(f"{self.subject} failed and has no profile")
        return self.profile

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit profile --json`` lists."""
        found = self.measured.record()
        if self.node is None:
            return found
        return {"node": self.node, **found, "environment": self.measured.environment, "saved": str(self.saved)}

    def row(self) -> tuple[str, ...]:
        """Cells of ``COLUMNS``; a figure that cannot be given is a dash and the reasons say why."""
        it = self.measured
        options, size = it.key_fields.get("options"), it.key_fields.get("image_size")
        return (
            self.subject + (f" at {size}" if size else ""),
            it.runtime + (f" {options}" if options else ""),
            str(it.threads),
            *(render.ms(figure) for figure in (it.p50_ms, it.p90_ms, it.p99_ms)),
            "—" if it.throughput is None else f"{it.throughput:,.1f}",
            render.ms(it.load_ms),
            render.ms(it.first_ms),
            render.si(it.peak_rss_bytes, "B"),
            it.verdict,
        )

    def lines(self) -> Iterator[str]:
        """How good the answers are, reasons, and where a node's result is, in words."""
        it = self.measured
        good, of_file = it.how_good(), it.accuracy or it.quality
        if good and of_file:
            yield f"{self.subject}: {quality_line(good, of_file.sha256)}"
        for reason in it.reasons:
            yield f"{self.subject}: {reason}"
        if self.saved:
            yield f"{self.subject}: kept in {self.saved}"


@dataclass(frozen=True)
class Demands:
    """What a measured profile must keep: shares of its layers' time (``--require``), gates (``--fail-if``)."""

    shares: tuple[Requirement, ...] = ()
    failing: tuple[Gate, ...] = ()

    def judged(self, outcome: Outcome) -> Outcome:
        """The outcome, with the error that its measurement failed or what it misses first."""
        return outcome if outcome.error else replace(outcome, error=self._missed(outcome.measured))

    def _missed(self, it: ProfileRecord) -> EdgeVitError | None:
        if it.verdict == "FAILED":
            return EdgeVitError("; ".join(it.reasons))
        for share in self.shares:
            if it.layers is None:  # what could not be timed meets no requirement
                return GateMissed("where the time was spent is not known, so --require is not met", hint=it.reasons[-1])
            try:
                share.check(it.layers)
            except GateMissed as error:
                return error
        figures = gates.figures_of(it)
        missed = [sentence for gate in self.failing if (sentence := gate.missed(figures))]
        return GateMissed("; ".join(missed)) if missed else None


def demands(require: Sequence[str] = (), fail_if: Sequence[str] = ()) -> Demands:
    """``require`` ("cuda>=95%") and ``fail_if`` ("p90>20ms"), checked before anything runs."""
    return Demands(tuple(parse_requirement(text) for text in require), gates.parse_all(fail_if))


def profile_each(
    artifacts: Sequence[Path], progress_for: Callable[[str], Progress], options: Mapping[str, Any]
) -> list[Outcome]:
    """Profile each artifact in turn on this machine; ``options`` are those of ``profile``."""
    return [_profiled(path, progress_for(str(path)), options) for path in artifacts]


def _profiled(path: Path, progress: Progress, options: Mapping[str, Any]) -> Outcome:
    try:
        return Outcome(str(path), profile(path, progress=progress, **options).kept)
    except EdgeVitError as error:
        return Outcome(str(path), error=error)


def layer_rows(layers: Layers) -> list[tuple[str, ...]]:
    """Lines of the layer table: the operators that take most, then the modules and the units."""
    total = layers.total_ms or 1.0
    return [
        (kind, name, render.ms(ms), f"{ms / total:.0%}")
        for kind in ("op", "module", "unit")
        for name, ms in list(layers.by(kind).items())[:SHOWN_LAYERS]
    ]


def quality_line(found: Quality, sha256: str) -> str:
    """How good the answers of the file are that was timed, in words."""
    return f"{found.figures()} on {render.counted(found.images, 'image')} of {found.data} (model sha256 {sha256[:12]}…)"
