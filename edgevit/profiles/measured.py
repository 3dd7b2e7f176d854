"""A measurement while it is made: runs of worker processes under stated conditions, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from edgevit.profiles import statistics, verdict
from edgevit.profiles.environment import Environment, device_of
from edgevit.profiles.layers import Layers
from edgevit.profiles.record import PercentileMs, Process, ProfileRecord
from edgevit.profiles.scenarios import by_minute
from edgevit.profiles.verdict import Finding, Run, Verdict
from edgevit.proof.accuracy import FileAccuracy, FileQuality

PERCENTILES = (0.5, 0.9, 0.95, 0.97, 0.99, 0.999)
SCENARIO = "single-stream"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What was asked for and used.

    preprocess  "outside" the measured call, or "baked" into the graph
    precision   what the engine computed in, as it said itself once it was open
    options     of the runtime, as they were given
    details     the session's own settings and versions
    image_size  of what was fed, where the artifact takes more than one
    """

    runtime: str
    provider: str | None
    threads: int
    batch: int
    tier: str
    runtime_version: str | None
    preprocess: str
    inputs: str
    scenario: str = SCENARIO
    details: tuple[tuple[str, str], ...] = ()
    precision: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    image_size: str | None = None


@dataclass(frozen=True)
class Profile:
    """One measurement. Samples are kept and summaries computed from them.

    runs       one per worker process; empty when the first one failed
    findings   doubts, each with evidence; the worst one is the verdict
    notes      sentences that are no doubt about the samples: an unverified artifact, a folder that cannot be written
    """

    artifact: str
    conditions: Conditions
    environment: Environment
    runs: tuple[Run, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    saved: Path | None = None
    layers: Layers | None = None
    accuracy: FileAccuracy | None = None
    quality: FileQuality | None = None

    @cached_property
    def samples_ms(self) -> tuple[float, ...]:
        """Milliseconds of every call, in order; the processes of a publish run one after another."""
        return tuple(sample for run in self.runs for sample in run.samples_ms)

    def percentile(self, p: float) -> statistics.Percentile:
        return statistics.percentile(self.samples_ms, p)

    @property
    def verdict(self) -> Verdict:
        return verdict.worst(self.findings)

    @property
    def p50(self) -> float | None:
        """The raw median in ms."""
        return self.percentile(0.5).raw

    @property
    def p90(self) -> float | None:
        """Early-stopping estimate in ms, or None below 64 samples."""
        return self.percentile(0.9).estimate

    @property
    def p99(self) -> float | None:
        """Early-stopping estimate in ms, or None below 662 samples."""
        return self.percentile(0.99).estimate

    @property
    def throughput(self) -> float | None:
        """Rows per second: back to back, rows ÷ time spent in calls; in other scenarios, ÷ the whole time."""
        closed = self.conditions.scenario == SCENARIO
        spent = sum(self.samples_ms) if closed else sum(run.elapsed_ms for run in self.runs)
        return self.rows_per_query * len(self.samples_ms) / spent * 1e3 if spent else None

    @property
    def rows_per_query(self) -> int:
        """Rows behind one sample: the batch, or all samples of a multi-stream query."""
        name, _, streams = self.conditions.scenario.partition(" of ")
        return max(int(streams), self.conditions.batch) if name == "multi-stream" else self.conditions.batch

    @property
    def energy(self) -> dict[str, Any] | None:
        """Joules per query above idle of the first process, or ``{"not_measured": reason}``."""
        return dict(self.runs[0].energy) if self.runs and self.runs[0].energy else None

    @property
    def working_memory(self) -> dict[str, Any] | None:
        """``{"bytes", "source"}`` of one inference by the engine's own word, or ``{"not_measured": reason}``."""
        return dict(self.runs[0].working_memory) if self.runs and self.runs[0].working_memory else None

    @property
    def peak_rss_bytes(self) -> int | None:
        """Largest resident memory of any worker above what it held before the model was opened."""
        return max((run.peak_rss_bytes for run in self.runs if run.peak_rss_bytes is not None), default=None)

    @property
    def unmonitored(self) -> tuple[str, ...]:
        return tuple(sorted({name for run in self.runs for name in run.unmonitored}))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Findings, notes and why figures are missing, as sentences."""
        found = [*map(str, self.findings), *self.notes]
        if self.runs:
            missing = [note for p in (0.9, 0.99) if (note := self.percentile(p).reason)]
            found += [f"{note}: use --tier standard" if self.conditions.tier == "quick" else note for note in missing]
            found += [note for run in self.runs[:1] if (note := verdict.timer_note(run))]
        return tuple(dict.fromkeys(found))

    @property
    def key_fields(self) -> dict[str, str | int | None]:
        """What two profiles must share to be ranked against each other."""
        used, here = self.conditions, self.environment
        return {
            "device": device_of(here),
            "clocks": here.clocks,
            "threads": used.threads,
            "batch": used.batch,
            "tier": used.tier,
            "runtime": f"{used.runtime} {used.runtime_version}",
            "provider": used.provider,
            "precision": used.precision,
            "options": ", ".join(f"{key}={value}" for key, value in sorted(used.options)) or None,
            "transfers": "host to host",
            "preprocess": used.preprocess,
            "scenario": used.scenario,
            **({"image_size": used.image_size} if used.image_size else {}),
        }

    @property
    def key(self) -> str:
        return self.kept.key

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit profile --json`` lists."""
        return self.kept.record()

    @cached_property
    def kept(self) -> ProfileRecord:
        """What profiles/*.json keeps."""
        used = self.conditions
        return ProfileRecord(
            artifact=self.artifact,
            runtime=used.runtime,
            provider=used.provider,
            threads=used.threads,
            precision=used.precision,
            scenario=used.scenario,
            tier=used.tier,
            verdict=self.verdict,
            unmonitored=self.unmonitored,
            p50_ms=self.p50,
            p90_ms=self.p90,
            p99_ms=self.p99,
            throughput=self.throughput,
            load_ms=median([run.load_ms for run in self.runs]) if self.runs else None,
            first_ms=median([run.first_ms for run in self.runs]) if self.runs else None,
            peak_rss_bytes=self.peak_rss_bytes,
            accuracy=self.accuracy,
            quality=self.quality,
            reasons=self.reasons,
            batch=used.batch,
            inputs=used.inputs,
            key_fields=dict(self.key_fields),
            environment=self.environment.record(),
            files=self.files,
            details=dict(used.details),
            energy=self.energy,
            working_memory=self.working_memory,
            layers=self.layers,
            minutes=[dict(minute) for minute in by_minute(self.samples_ms)] if self._sustained else None,
            percentiles={figure.name: _in_ms(figure) for figure in map(self.percentile, PERCENTILES)},
            processes=tuple(_process(run) for run in self.runs),
            samples_ms=self.samples_ms,
        )

    @property
    def _sustained(self) -> bool:
        return self.conditions.scenario.startswith("sustained")


def _in_ms(it: statistics.Percentile) -> PercentileMs:
    return PercentileMs(estimate_ms=it.estimate, raw_ms=it.raw, interval95_ms=it.interval, needs=it.needs)


def _process(run: Run) -> Process:
    return Process(
        samples=len(run.samples_ms),
        load_ms=run.load_ms,
        first_ms=run.first_ms,
        warm_steady=run.warm_steady,
        warm_ms=run.warm_ms,
        timer_ms=run.timer_ms,
        elapsed_ms=run.elapsed_ms,
        dropped=run.dropped,
        peak_rss_bytes=run.peak_rss_bytes,
        monitors={name: [dict(reading) for reading in series] for name, series in run.series.items()},
    )
