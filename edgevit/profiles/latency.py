"""``edgevit.profile``: how long an artifact takes on this machine, with samples, conditions, bounds and a verdict."""

from __future__ import annotations

import datetime
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgevit import registry, worker
from edgevit.artifact.files import write_atomically
from edgevit.artifact.manifest import BatchRange
from edgevit.artifact.opened import Artifact
from edgevit.cpu import checked_threads, crowding
from edgevit.errors import ParityFailed, UnknownName, Unsupported, UsageError, WorkerFailed
from edgevit.profiles import environment, verdict
from edgevit.profiles.layers import Layers
from edgevit.profiles.measure import Plan, plan_record
from edgevit.profiles.measured import Conditions as Conditions
from edgevit.profiles.measured import Profile as Profile
from edgevit.profiles.scenarios import (
    Scenario,
    bound_sentence,
    by_minute,
    calls_of_query,
    parse_scenario,
    sustained_sentence,
)
from edgevit.profiles.verdict import Finding, Need, Run
from edgevit.proof.accuracy import FileAccuracy, FileQuality, model_sha256
from edgevit.runtimes import feeds
from edgevit.runtimes.base import default_runtime
from edgevit.sizes import Sides, as_size

SINGLE_STREAM = Scenario()
LAYERS_TIMEOUT_S = 900.0
QUALITY_TIMEOUT_S = 3600.0
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Tier:
    """How much is measured: ``plan`` for each of ``processes`` fresh processes."""

    plan: Plan
    processes: int = 1


TIERS = {
    "quick": Tier(Plan(min_s=6, min_count=64, limit_s=120, warm_cap_s=10, steady_cap_s=24)),
    "standard": Tier(Plan(min_s=60, min_count=662, limit_s=900, warm_cap_s=30, idle_s=6)),
    "publish": Tier(Plan(min_s=120, min_count=133, limit_s=900, warm_cap_s=30, idle_s=6), processes=5),
}


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of ``profile`` as they were given."""

    runtime: str | None = None
    provider: str | None = None
    tier: str = "quick"
    threads: int | None = None
    batch: int | None = None
    data: str | None = None
    scenario: Scenario = SINGLE_STREAM
    layers: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    inputs: Path | None = None
    image_size: tuple[int, int] | None = None

    @property
    def given(self) -> feeds.Given:
        return feeds.Given(self.data, self.inputs, self.image_size)


def profile(
    path: Path | str,
    *,
    runtime: str | None = None,
    provider: str | None = None,
    tier: str = "quick",
    threads: int | None = None,
    batch: int | None = None,
    data: str | None = None,
    scenario: Scenario | str = SINGLE_STREAM,
    layers: bool = False,
    trust: bool = False,
    options: Mapping[str, str] | None = None,
    inputs: Path | str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure one artifact in fresh processes and keep the result in its profiles/ folder.

    Inputs are the golden rows in rotation, or the images of ``data``, on which the accuracy, or the metric of its task,
    is measured as well where they say what is true, or the rows of an .npz, ``inputs``. ``image_size`` chooses one of
    the sizes that the artifact takes, where it takes a range of them: otherwise the one that its model was made for is
    measured. ``layers`` adds the time of every layer. Both are taken in processes of their own after the samples. A
    worker that crashes or hangs gives a Profile with the verdict FAILED. ``trust`` and ``options`` (of the runtime,
    such as OpenVINO's precision) are those of ``open_session``.
    Raises ParityFailed for an artifact that failed verification, Unsupported for a runtime whose time means nothing,
    UsageError, UnknownName, BadArtifact, MissingDependency.
    """
    artifact = Artifact.open(path)
    artifact.check_seal()
    chosen_scenario = parse_scenario(scenario) if isinstance(scenario, str) else scenario
    chosen = lasting(_tier(tier), chosen_scenario)
    given = dict(options or {})
    size = None if image_size is None else as_size(image_size)
    file = None if inputs is None else Path(inputs)
    asked = Request(runtime, provider, tier, threads, batch, data, chosen_scenario, layers, given, file, size)
    conditions = conditions_of(artifact, asked)
    notes = _notes(artifact, conditions.threads)
    measured = Profile(str(path), conditions, environment.collect(), (), (), notes, dict(artifact.manifest.files))
    with tempfile.TemporaryDirectory(prefix="edgevit-profile-") as folder:
        feed_file = feeds.write(artifact, Path(folder) / "feeds.npz", batch=conditions.batch, given=asked.given)
        opening = {"provider": provider, "trust": trust, "options": given}
        job = _Job(chosen, chosen_scenario, feed_file, opening, progress or (lambda stage, fraction: None))
        measured = _measure(measured, job)
        if layers and measured.runs:
            measured = _with_layers(measured, job)
        if data and measured.runs:
            measured = _with_quality(measured, job, artifact, data)
    return save(measured, artifact.path)


def _tier(name: str) -> Tier:
    if name not in TIERS:
        raise UnknownName("tier", name, TIERS)
    return TIERS[name]


def conditions_of(artifact: Artifact, asked: Request) -> Conditions:
    """What will be measured, checked before a process is started."""
    manifest = artifact.manifest
    if manifest.parity.status == "failed":
        raise ParityFailed(
            f"{artifact.path} failed verification ({manifest.parity.reason}), so its speed means nothing",
            hint="export it again",
        )
    name = asked.runtime or default_runtime(artifact, timed=True)
    if not registry.row("runtime", name).can_profile:
        raise Unsupported(f"{name} is a reference, not an engine: its time means nothing", hint="use another --runtime")
    rows = asked.batch or default_rows(asked.scenario, manifest.batch)
    if not manifest.batch.min <= rows <= manifest.batch.max:
        raise UsageError(
            f"{artifact.path} takes a batch of {manifest.batch}, not {rows}", hint=f"export with --batch {rows}"
        )
    packages = registry.row("runtime", name).packages
    version = registry.version_of(packages[0]) if packages else None
    baked = "baked" if manifest.preprocess and manifest.preprocess.baked else "outside"
    threads = checked_threads(asked.threads)
    measured = asked.given.manifest(artifact)
    steps = measured.preprocess if measured.image_sizes else None
    return Conditions(
        name,
        asked.provider,
        threads,
        rows,
        asked.tier,
        version,
        baked,
        asked.given.called,
        str(asked.scenario),
        precision=manifest.precision,
        options=tuple(asked.options.items()),
        image_size=str(Sides(*steps.size)) if steps else None,
    )


def default_rows(scenario: Scenario, batch: BatchRange) -> int:
    """Rows per call where none are asked for: one, but as many as fit where a query holds several samples."""
    if scenario.name == "offline":
        return batch.max
    return min(batch.max, max(batch.min, scenario.streams))


def _notes(artifact: Artifact, threads: int) -> tuple[str, ...]:
    parity = artifact.manifest.parity
    unproved = None if parity.status == "verified" else f"the artifact is unverified: {parity.reason}"
    return tuple(note for note in (unproved, crowding(threads)) if note)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the worker processes are given."""

    tier: Tier
    scenario: Scenario
    feeds: Path
    opening: dict[str, Any]
    progress: Progress

    def payload(self, blank: Profile) -> dict[str, Any]:
        used = blank.conditions
        return {
            "artifact": blank.artifact,
            "runtime": used.runtime,
            **self.opening,
            "threads": used.threads,
            "feeds": str(self.feeds),
            "plan": plan_record(self.tier.plan),
            "scenario": self.scenario.record(),
            "calls": calls_of_query(self.scenario, used.batch),
        }


def lasting(tier: Tier, scenario: Scenario) -> Tier:
    """The tier, made to last as long as a sustained scenario asks for."""
    if scenario.minutes is None:
        return tier
    seconds = 60 * scenario.minutes
    return replace(tier, plan=replace(tier.plan, min_s=seconds, limit_s=2 * seconds, steady_cap_s=0), processes=1)


def _measure(blank: Profile, job: _Job) -> Profile:
    """``blank`` with the runs and findings of all processes."""
    tier, progress, plan = job.tier, job.progress, job.tier.plan
    need, used, cores = Need(plan.min_s, plan.min_count), blank.conditions, blank.environment.cores
    payload = job.payload(blank)
    findings: list[Finding] = []
    for number in range(tier.processes):
        stage = "measuring" if tier.processes == 1 else f"measuring, process {number + 1} of {tier.processes}"
        progress(stage, None)
        try:
            answer = worker.call(
                "edgevit.profiles.measure:run",
                payload,
                timeout=120 + plan.idle_s + plan.warm_cap_s + 2 * plan.limit_s,
                on_progress=_forward(progress, stage),
            )
        except WorkerFailed as error:
            advice = error.hint or "EDGEVIT_DEBUG=1 shows more"
            return replace(blank, findings=(*findings, Finding("FAILED", str(error), advice)))
        if not answer["finite"]:
            bad = Finding("FAILED", "the outputs hold NaN or infinity", "run edgevit verify, then export again")
            return replace(blank, runs=(), findings=(bad,))
        run = _run(answer)
        findings += verdict.judge(run, need, cores)
        conditions = replace(
            used,
            provider=answer["provider"],
            threads=answer["threads"],
            precision=answer["precision"],
            details=tuple(answer["details"].items()),
        )
        blank = replace(blank, runs=(*blank.runs, run), conditions=conditions)
    findings += verdict.judge_between(blank.runs)
    notes = (*blank.notes, *scenario_notes(job.scenario, blank))
    return replace(blank, findings=tuple(dict.fromkeys(findings)), notes=notes)


def scenario_notes(scenario: Scenario, measured: Profile) -> list[str]:
    """What the scenario itself asks about: a bound, dropped frames, the last minute against the first."""
    notes = []
    if scenario.bound_ms is not None:
        notes.append(bound_sentence(measured.samples_ms, scenario.bound_ms))
    dropped = sum(run.dropped for run in measured.runs)
    if dropped:
        notes.append(f"{dropped} of {dropped + len(measured.samples_ms)} frames were dropped: the model was still busy")
    if scenario.name == "sustained" and len(minutes := by_minute(measured.samples_ms)) > 1:
        notes.append(sustained_sentence(minutes))
    return notes


def _with_layers(measured: Profile, job: _Job) -> Profile:
    """``measured`` with the time of every layer, or a note why not."""
    job.progress("layers", None)
    try:
        found = worker.call("edgevit.profiles.layers:run", job.payload(measured), timeout=LAYERS_TIMEOUT_S)
    except (WorkerFailed, Unsupported) as error:
        return replace(measured, notes=(*measured.notes, f"layers were not timed: {error}"))
    return replace(measured, layers=Layers.model_validate(found))


def _with_quality(measured: Profile, job: _Job, artifact: Artifact, data: str) -> Profile:
    """``measured`` with how good the answers of the very file are that was timed, or a note why that is not known."""
    job.progress("quality", None)
    payload = {**job.payload(measured), "data": data}
    try:
        found = worker.call("edgevit.proof.labelled:run", payload, timeout=QUALITY_TIMEOUT_S)
    except (WorkerFailed, Unsupported, ParityFailed) as error:
        found = {"reason": str(error)}
    if "reason" in found:
        return replace(measured, notes=(*measured.notes, f"quality was not measured: {found['reason']}"))
    of_file = {"data": data, "sha256": model_sha256(artifact.manifest)}
    if "accuracy" in found:
        return replace(measured, accuracy=FileAccuracy(**{**found["accuracy"], **of_file}))
    return replace(measured, quality=FileQuality(**{**found["quality"], **of_file}))


def _forward(progress: Progress, stage: str) -> Progress:
    """The worker's own progress under the name that says which process of how many it is."""
    return lambda _, fraction: progress(stage, fraction)


def _run(answer: dict[str, Any]) -> Run:
    return Run(
        samples_ms=tuple(ns / 1e6 for ns in answer["samples_ns"]),
        warm_ms=tuple(ns / 1e6 for ns in answer["warm_ns"]),
        warm_steady=answer["warm_steady"],
        load_ms=answer["load_ns"] / 1e6,
        first_ms=answer["first_ns"] / 1e6,
        timer_ms=answer["timer_ns"] / 1e6,
        peak_rss_bytes=answer["peak_rss_bytes"],
        elapsed_ms=answer["elapsed_ns"] / 1e6,
        dropped=answer["dropped"],
        energy=answer["energy"],
        working_memory=answer["working_memory"],
        series=answer["monitors"],
        unmonitored=tuple(answer["unmonitored"]),
    )


def save(measured: Profile, folder: Path, now: datetime.datetime | None = None) -> Profile:
    """Write profiles/<utc>-<runtime>-<tier>.json; a folder that cannot be written is a note, not the end."""
    stamp = (now or datetime.datetime.now(datetime.timezone.utc)).strftime("%Y%m%dT%H%M%S%fZ")
    path = folder / "profiles" / f"{stamp}-{measured.conditions.runtime}-{measured.conditions.tier}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(measured.kept.model_dump(mode="json"), separators=(",", ":")) + "\n")
    except OSError as exc:
        note = f"samples were not kept: {path.parent} cannot be written ({(exc.strerror or str(exc)).lower()})"
        return replace(measured, notes=(*measured.notes, note))
    return replace(measured, saved=path)
