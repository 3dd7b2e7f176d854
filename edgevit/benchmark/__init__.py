"""``edgevit benchmark``: export, verify and profile every model on every target and runtime, one row each.

A failure is a row with its reason and exit code, and the others go on. What is done is in benchmark.json: the same
command again goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgevit import registry, render
from edgevit.artifact.claim import claimed
from edgevit.artifact.opened import Artifact
from edgevit.benchmark.exports import Built, exports
from edgevit.benchmark.job import COLUMNS as COLUMNS
from edgevit.benchmark.job import OUT as OUT
from edgevit.benchmark.job import BenchmarkJob as BenchmarkJob
from edgevit.benchmark.job import Row as Row
from edgevit.benchmark.job import failures as failures
from edgevit.benchmark.job import refusal
from edgevit.benchmark.job import target_names as target_names
from edgevit.benchmark.ledger import Ledger
from edgevit.benchmark.proving import proved, verified
from edgevit.benchmark.ranked import Answer as Answer
from edgevit.benchmark.ranked import ranked as ranked
from edgevit.cpu import checked_threads
from edgevit.disk import filling
from edgevit.errors import (
    BadArtifact,
    EdgeVitError,
    GateMissed,
    Interrupted,
    ParityFailed,
    UnknownName,
    Unsupported,
    UsageError,
    WorkerFailed,
)
from edgevit.profiles import environment, gates
from edgevit.profiles.gates import Gate
from edgevit.profiles.latency import TIERS, profile
from edgevit.profiles.stored import read
from edgevit.proof.accuracy import AccuracyCheck
from edgevit.proof.quality import QualityCheck
from edgevit.runtimes.base import default_runtime

Progress = Callable[[str, float | None], None]
_GOOD: dict[str, type[AccuracyCheck | QualityCheck]] = {"accuracy": AccuracyCheck, "quality": QualityCheck}


def run(job: BenchmarkJob, progress_for: Callable[[str], Progress]) -> list[Row]:
    """Every row that was asked for, measured now or by an earlier run of the same request.

    Raises UsageError and UnknownName for a request that cannot be right, before any work; BadArtifact for a broken
    benchmark.json; Interrupted on Ctrl-C, when all finished rows are kept.
    """
    conditions = _checked(job)
    with claimed(job.out), filling(job.out):
        return _run(job, conditions, progress_for)


def _run(job: BenchmarkJob, conditions: Sequence[Gate], progress_for: Callable[[str], Progress]) -> list[Row]:
    ledger = Ledger(job.out)
    ledger.save()
    rows: list[Row] = []
    try:
        for model in dict.fromkeys(job.models):
            for target, built in exports(job, model, ledger, progress_for).items():
                for row in _rows(job, model, target, built, ledger, progress_for):
                    rows.append(_judged(row, conditions))
                    ledger.keep(rows[-1].record())
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped with {render.counted(len(rows), 'row')} finished and kept in {job.out}",
            hint="run the same command again to go on",
        ) from None
    return rows


def _checked(job: BenchmarkJob) -> tuple[Gate, ...]:
    """The gates, once every name in the request is known."""
    if not job.models:
        raise UsageError("there is no model to measure", hint="edgevit models lists the zoo")
    if job.tier not in TIERS:
        raise UnknownName("tier", job.tier, TIERS)
    checked_threads(job.export.threads)
    for name in job.export.targets:
        registry.row("exporter", name)
    for name in job.runtimes:
        if name != "all":
            registry.row("runtime", name)
    return gates.parse_all(job.fail_if)


def _judged(row: Row, conditions: Sequence[Gate]) -> Row:
    """The row, failed when it misses a gate. One that failed already has no figures to judge."""
    if row.error:
        return row
    missed = [sentence for gate in conditions if (sentence := gate.missed(row.figures()))]
    return replace(row, error=GateMissed("; ".join(missed))) if missed else row


def _rows(
    job: BenchmarkJob, model: str, target: str, built: Built, ledger: Ledger, progress_for: Callable[[str], Progress]
) -> Iterator[Row]:
    """One row for each runtime of an artifact; a single one when there is no artifact or no runtime."""
    if built.artifact is None:
        yield Row(model, target, error=built.error, elsewhere=built.elsewhere)
        return
    manifest = built.artifact.manifest
    blank = Row(
        model,
        target,
        artifact=built.artifact.path,
        precision=manifest.precision,
        size=built.artifact.size_bytes(),
        files=manifest.files,
        parity=manifest.parity.record(),
    )
    try:
        names = _runtimes(job, built.artifact)
    except EdgeVitError as error:
        yield replace(blank, error=error)
        return
    for name in names:
        row = replace(blank, runtime=name, request=_request(job, built.artifact, name))
        if (why := refusal("runtime", name)) is not None:
            yield replace(row, error=why, elsewhere=job.everywhere or "all" in job.runtimes)
        else:
            yield _kept(job, row, ledger) or _measured(job, row, built.artifact, progress_for(row.subject))


def _runtimes(job: BenchmarkJob, artifact: Artifact) -> list[str]:
    """The runtimes to measure an artifact on. Unsupported when none of those asked for opens it."""
    if not job.runtimes:
        return [default_runtime(artifact, timed=True)]
    target, rows = artifact.manifest.target, registry.rows("runtime")
    able = [name for name in registry.runtimes_for(target) if rows[name].can_profile]
    named = [name for name in able if name in job.runtimes]
    found = [name for name in able if name != "torch"] if "all" in job.runtimes else named
    if not found:
        shown = ", ".join(job.runtimes)
        raise Unsupported(f"no runtime of {shown} measures {target} artifacts", hint=f"add --runtime {able[0]}")
    return found


def _request(job: BenchmarkJob, artifact: Artifact, runtime: str) -> dict[str, Any]:
    """All that decides what a measurement finds. The artifact goes by its hashes, the machine by its fingerprint."""
    here, packages = environment.collect(), registry.row("runtime", runtime).packages
    return {
        "files": dict(artifact.manifest.files),
        "tier": job.tier,
        "threads": job.export.threads,
        "provider": job.provider,
        "data": job.export.data,
        "runtime_version": registry.version_of(packages[0]) if packages else None,
        "edgevit": here.edgevit,
        "machine": f"{here.machine} {here.cpu}, {here.cores} cores",
    }


def _kept(job: BenchmarkJob, row: Row, ledger: Ledger) -> Row | None:
    """The row as an earlier run measured it, or None."""
    found = None if job.export.force else ledger.measured(row.model, row.target, str(row.runtime), row.request)
    if found is None or row.artifact is None:
        return None
    saved = row.artifact / "profiles" / Path(found["profile"]).name  # the folder may have been moved since
    try:
        measured = read(saved).stored
        good = _good(found)
    except (BadArtifact, ValidationError):
        return None
    return replace(
        row,
        parity=found["parity"],
        **good,
        profile=measured,
        saved=str(saved),
        notes=tuple(found["notes"]),
        reused=True,
    )


def _good(found: Mapping[str, Any]) -> dict[str, Any]:
    """``accuracy`` and ``quality`` of a row, as a record keeps them."""
    return {name: kind.model_validate(found[name]) for name, kind in _GOOD.items() if found.get(name)}


def _measured(job: BenchmarkJob, row: Row, artifact: Artifact, progress: Progress) -> Row:
    """The row with its proof, its quality and its profile, or with the error that ended it."""
    try:
        progress("verify", None)
        proof, notes = verified(job, artifact, str(row.runtime))
        row = replace(row, **proved(proof), notes=notes)
        measured = profile(
            artifact.path,
            runtime=row.runtime,
            provider=job.provider,
            tier=job.tier,
            threads=job.export.threads,
            data=job.export.data,
            progress=progress,
        )
    except ParityFailed as error:
        failed = getattr(error, "verification", None)
        return replace(row, error=error, **(proved(failed) if failed else {}))
    except EdgeVitError as error:
        return replace(row, error=error)
    dead = WorkerFailed("; ".join(measured.reasons)) if measured.verdict == "FAILED" else None
    saved = str(measured.saved) if measured.saved else None
    return replace(row, profile=measured.kept, saved=saved, error=dead)
