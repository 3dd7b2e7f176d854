"""Several exports or profiles in one command: each is tried, a failure is kept as a result, the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit import registry, render
from edgevit.errors import EdgeVitError, ParityFailed, UsageError

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.profiles.latency import Profile

Progress = Callable[[str, float | None], None]

EXPORT_COLUMNS = ("artifact", "target", "precision", "size", "seconds", "parity", "max rel. error", "tolerance")
PROFILE_COLUMNS = (
    "artifact",
    "runtime",
    "threads",
    "p50",
    "p90",
    "p99",
    "rows/s",
    "load",
    "first",
    "memory",
    "verdict",
)


@dataclass(frozen=True)
class ExportJob:
    """What ``edgevit export`` was asked for; fields are its options."""

    model: str
    targets: tuple[str, ...]
    out: Path | None = None
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
            "parity": parity_record(manifest.parity),
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


def _present(artifact: Artifact | None) -> Artifact:
    if artifact is None:
        raise ValueError("a failed export has no record")
    return artifact


def parity_record(parity: Any) -> dict[str, Any]:
    """The parity object of ``--json``: the fields outside scripts rely on."""
    names = ("status", "reason", "max_abs", "max_rel", "cosine", "top1_agreement", "tolerance", "images")
    return {name: getattr(parity, name) for name in names}


def resolve_targets(names: Sequence[str]) -> tuple[str, ...]:
    """The targets asked for, in order, without repeats; 'all' is every one that this machine can build."""
    if "all" in names:
        return tuple(name for name, row in registry.rows("exporter").items() if not row.missing())
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
    """Load the model once, then build every target. Only errors that concern all of them are raised."""
    targets = resolve_targets(job.targets)
    options = split_options(job.options, targets)
    _check_buildable(targets)
    from edgevit.models import create_model
    from edgevit.models.source import labels_from_file

    module = create_model(
        job.model,
        weights=job.weights,
        num_classes=job.classes,
        image_size=job.image_size,
        pretrained=job.pretrained,
    )
    labels = labels_from_file(job.labels) if job.labels else None
    results = []
    for target in targets:
        started = time.perf_counter()
        try:
            artifact = _export_one(job, module, target, options[target], labels, progress_for(target))
        except EdgeVitError as error:
            results.append(ExportResult(target, error=error))
            continue
        results.append(_judged(job, ExportResult(target, artifact, seconds=time.perf_counter() - started)))
    return results


def _check_buildable(targets: Sequence[str]) -> None:
    """With a single target, a missing package is said at once, before the model is made."""
    if len(targets) == 1:
        registry.row("exporter", targets[0]).load()


def _export_one(
    job: ExportJob, module: Any, target: str, options: Mapping[str, str], labels: Any, progress: Progress
) -> Artifact:
    from edgevit import build

    precision = job.precision or registry.load_exporter(target).precisions[0]
    out = job.out or build.default_out(job.model, target, precision)
    if job.out and len(job.targets) > 1:
        out = job.out / build.default_out(job.model, target, precision).name
    return build.export(
        module,
        target,
        out=out,
        precision=precision,
        batch=job.batch,
        options=dict(options),
        data=job.data,
        form=job.form,
        bake_preprocess=job.bake_preprocess,
        labels=labels,
        force=job.force,
        verify=job.verify,
        threads=job.threads,
        progress=progress,
    )


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


@dataclass(frozen=True)
class ProfileResult:
    """One artifact's outcome."""

    subject: str
    profile: Profile | None = None
    error: EdgeVitError | None = field(default=None)


def run_profiles(
    artifacts: Sequence[Path], progress_for: Callable[[str], Progress], **options: Any
) -> list[ProfileResult]:
    """Profile each artifact in turn; an error of one does not stop the others."""
    from edgevit.profiles.latency import profile

    results = []
    for path in artifacts:
        try:
            measured = profile(path, progress=progress_for(str(path)), **options)
        except EdgeVitError as error:
            results.append(ProfileResult(str(path), error=error))
            continue
        failed = EdgeVitError("; ".join(measured.reasons)) if measured.verdict == "FAILED" else None
        results.append(ProfileResult(str(path), measured, failed))
    return results


def profile_row(measured: Profile) -> tuple[str, ...]:
    """A line of the profile table; a figure that cannot be given is a dash and the reasons say why."""
    record = measured.record()
    rate = record["throughput"]
    return (
        str(record["artifact"]),
        record["runtime"],
        str(record["threads"]),
        *(render.ms(record[key]) for key in ("p50_ms", "p90_ms", "p99_ms")),
        "—" if rate is None else f"{rate:,.1f}",
        render.ms(record["load_ms"]),
        render.ms(record["first_ms"]),
        render.si(record["peak_rss_bytes"], "B"),
        record["verdict"],
    )
