"""Several exports in one command: each is tried, a failure is kept as a result, the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgevit import registry, render
from edgevit.artifact.staging import check_vacant
from edgevit.errors import EdgeVitError, ParityFailed, UsageError
from edgevit.predict import read_labels

if TYPE_CHECKING:
    from edgevit.artifact.opened import Artifact
    from edgevit.build import Prepared, Target

Progress = Callable[[str, float | None], None]
Found = TypeVar("Found")

EXPORT_COLUMNS = ("artifact", "target", "precision", "size", "seconds", "parity", "max rel. error", "tolerance")


@dataclass(frozen=True)
class ExportJob:
    """What ``edgevit export`` was asked for; fields are its options.

    ``parent``: ``out`` holds a folder for each target even when there is only one.
    """

    model: str
    targets: tuple[str, ...]
    out: Path | None = None
    parent: bool = False
    weights: str | None = None
    pretrained: bool = False
    precision: str | None = None
    batch: str = "1"
    image_size: int | None = None
    classes: int | None = None
    labels: Path | None = None
    options: tuple[str, ...] = ()
    form: str = "deploy"
    bake_preprocess: bool = False
    data: str | None = None
    verify: bool = True
    require_verified: bool = False
    threads: int | None = None
    timeout_s: float | None = None
    force: bool = False


@dataclass(frozen=True)
class ExportResult:
    """One target's outcome: an artifact, an error, or (with --require-verified) both."""

    subject: str
    artifact: Artifact | None = None
    error: EdgeVitError | None = None
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit export --json`` lists."""
        artifact = _present(self.artifact)
        manifest = artifact.manifest
        return {
            "artifact": str(artifact.path),
            "target": manifest.target,
            "precision": manifest.precision,
            "bytes": artifact.size_bytes(),
            "seconds": round(self.seconds, 3),
            "parity": manifest.parity.record(),
        }

    def row(self) -> tuple[str, ...]:
        artifact = _present(self.artifact)
        manifest = artifact.manifest
        parity = manifest.parity
        return (
            str(artifact.path),
            manifest.target,
            manifest.precision,
            render.si(artifact.size_bytes(), "B"),
            f"{self.seconds:.1f}",
            parity.status,
            "—" if parity.max_rel is None else f"{parity.max_rel:.1e}",
            f"{parity.tolerance:.1e}",
        )


def _present(found: Found | None) -> Found:
    if found is None:
        raise ValueError("what failed has no record")
    return found


def resolve_targets(names: Sequence[str]) -> tuple[str, ...]:
    """The targets asked for, in order, without repeats; 'all' is every one that this machine can build."""
    if "all" in names:
        return tuple(name for name, row in registry.rows("exporter").items() if row.on_this_machine().able)
    for name in names:
        registry.row("exporter", name)  # an unknown name ends the command before anything is built
    return tuple(dict.fromkeys(names))


def split_options(given: Iterable[str], targets: Sequence[str]) -> dict[str, dict[str, str]]:
    """``TARGET.key=value`` strings by target; the bare ``key=value`` belongs to the only target."""
    split: dict[str, dict[str, str]] = {target: {} for target in targets}
    for item in given:
        name, equals, value = item.partition("=")
        target, dot, key = name.partition(".")
        if not equals or not name:
            raise UsageError(f"--option {item!r} is not KEY=VALUE", hint="for example --option onnx.opset=20")
        if not dot:
            if len(targets) != 1:
                raise UsageError(f"--option {item!r} does not say for which target", hint=f"write {targets[0]}.{item}")
            target, key = targets[0], name
        if target not in split:
            raise UsageError(f"--option {item!r} is for {target}, which is not being built", hint=f"add -t {target}")
        split[target][key] = value
    return split


def run_export(job: ExportJob, progress_for: Callable[[str], Progress]) -> list[ExportResult]:
    """Load and prepare the model once, then build every target. Only errors that concern all of them are raised."""
    names = resolve_targets(job.targets)
    options = split_options(job.options, names)
    planned = [_plan(job, name, options[name]) for name in names]
    if not any(plan.target for plan in planned):
        return [ExportResult(plan.name, error=plan.error) for plan in planned]
    from edgevit import build

    started = time.perf_counter()
    with build.torch_threads(job.threads):
        prepared = _prepared(job, progress_for("prepare"))
        shared = time.perf_counter() - started
        if prepared.info.weights.origin.startswith("random"):
            render.say(f"{job.model}: no --weights, so the artifact holds random ones (seed 0)")
        for note in prepared.notes:
            render.say(f"{job.model}: {note}")
        return [_build(job, plan, prepared, shared, progress_for(plan.name)) for plan in planned]


@dataclass(frozen=True)
class _Plan:
    """One target with its checked settings, or the error that excludes it before anything is built."""

    name: str
    target: Target | None = None
    folder: Path = Path()
    error: EdgeVitError | None = None


def _plan(job: ExportJob, name: str, options: Mapping[str, str]) -> _Plan:
    try:
        registry.row("exporter", name).load()  # names the pip line before build.py needs torch
        from edgevit import build

        target = build.choose_target(name, job.precision, dict(options))
        default = build.default_out(job.model, name, target.precision)
        folder = _folder(job, default)
        check_vacant(folder, force=job.force)
    except EdgeVitError as error:
        return _Plan(name, error=error)
    return _Plan(name, target, folder)


def _folder(job: ExportJob, default: Path) -> Path:
    """Where a target's artifact goes: ``out`` itself for one target, in it for several."""
    if job.out is None:
        return default
    return job.out / default.name if job.parent or len(job.targets) > 1 else job.out


def _prepared(job: ExportJob, progress: Progress) -> Prepared:
    from edgevit import build
    from edgevit.models import create_model

    progress("load the model", None)
    module = create_model(
        job.model,
        weights=job.weights,
        num_classes=job.classes,
        image_size=job.image_size,
        pretrained=job.pretrained,
    )
    request = build.Request(
        batch=build.parse_batch(job.batch),
        data=job.data,
        form=build.checked_form(job.form),
        bake_preprocess=job.bake_preprocess,
        labels=read_labels(job.labels),
        threads=job.threads,
        verify=job.verify,
        timeout_s=job.timeout_s,
        progress=progress,
    )
    return build.prepare(module, request)


def _build(job: ExportJob, plan: _Plan, prepared: Prepared, shared: float, progress: Progress) -> ExportResult:
    """One target. Its seconds include the ``shared`` preparation, as if it had been built alone."""
    from edgevit import build

    if plan.target is None:
        return ExportResult(plan.name, error=plan.error)
    started = time.perf_counter()
    mine = replace(prepared, request=replace(prepared.request, progress=progress))
    try:
        artifact = build.build_target(mine, plan.target, plan.folder)
    except EdgeVitError as error:
        return ExportResult(plan.name, error=error)
    return _judged(job, ExportResult(plan.name, artifact, seconds=shared + time.perf_counter() - started))


def _judged(job: ExportJob, result: ExportResult) -> ExportResult:
    """Say why an artifact is unverified; with --require-verified that is an error too."""
    parity = _present(result.artifact).manifest.parity
    if parity.status != "unverified":
        return result
    if not job.require_verified:
        render.say(f"{result.subject}: unverified: {parity.reason}")
        return result
    error = ParityFailed(
        f"unverified: {parity.reason}", hint=f"run edgevit verify {_present(result.artifact).path} where it can run"
    )
    return ExportResult(result.subject, result.artifact, error, result.seconds)
