"""Several exports or profiles in one command: each is tried, a failure is kept as a result, the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgevit import registry, render
from edgevit.artifact.staging import check_vacant
from edgevit.errors import EdgeVitError, GateMissed, ParityFailed, UsageError
from edgevit.predict import read_labels

if TYPE_CHECKING:
    from edgevit.artifact.opened import Artifact
    from edgevit.build import Prepared, Target
    from edgevit.profiles.gates import Gate
    from edgevit.profiles.layers import Layers, Requirement

Progress = Callable[[str, float | None], None]
Found = TypeVar("Found")

LAYER_COLUMNS = ("by", "name", "ms", "share")
SHOWN_LAYERS = 8
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


def _present(found: Found | None) -> Found:
    if found is None:
        raise ValueError("what failed has no record")
    return found


def parity_record(parity: Any) -> dict[str, Any]:
    """The parity object of ``--json``: the fields outside scripts rely on."""
    names = ("status", "reason", "max_abs", "max_rel", "cosine", "top1_agreement", "tolerance", "images")
    return {name: getattr(parity, name) for name in names}


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


@dataclass(frozen=True)
class ProfileResult:
    """One artifact's outcome: what profiles/*.json keeps of it, an error, or both. ``node`` and ``saved`` say on which
    node of a fleet it was measured and where its file is; without, it was here."""

    subject: str
    full: Mapping[str, Any] | None = None
    error: EdgeVitError | None = None
    node: str | None = None
    saved: Path | None = None

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit profile --json`` lists."""
        from edgevit.profiles.record import LISTED

        full = _present(self.full)
        found = {name: full[name] for name in LISTED}
        if self.node is None:
            return found
        return {"node": self.node, **found, "environment": full["environment"], "saved": str(self.saved)}

    def row(self) -> tuple[str, ...]:
        """Cells of ``PROFILE_COLUMNS``; a figure that cannot be given is a dash and the reasons say why."""
        full = _present(self.full)
        rate, options = full["throughput"], full["key_fields"]["options"]
        return (
            self.subject,
            full["runtime"] + (f" {options}" if options else ""),
            str(full["threads"]),
            *(render.ms(full[key]) for key in ("p50_ms", "p90_ms", "p99_ms")),
            "—" if rate is None else f"{rate:,.1f}",
            render.ms(full["load_ms"]),
            render.ms(full["first_ms"]),
            render.si(full["peak_rss_bytes"], "B"),
            full["verdict"],
        )

    def lines(self) -> Iterator[str]:
        """Accuracy, reasons, and where a node's result is, in words."""
        full = _present(self.full)
        if full["accuracy"]:
            yield f"{self.subject}: {accuracy_line(full['accuracy'])}"
        for reason in full["reasons"]:
            yield f"{self.subject}: {reason}"
        if self.saved:
            yield f"{self.subject}: kept in {self.saved}"

    @property
    def layers(self) -> Layers | None:
        from edgevit.profiles.layers import of_record

        found = _present(self.full)["layers"]
        return of_record(found) if found else None


def run_profiles(
    artifacts: Sequence[Path],
    progress_for: Callable[[str], Progress],
    *,
    on: Sequence[str] = (),
    link: Any = None,
    out: Path | None = None,
    require: Sequence[str] = (),
    fail_if: Sequence[str] = (),
    **options: Any,
) -> list[ProfileResult]:
    """Profile each artifact in turn, here or ``on`` nodes of a fleet; an error of one does not stop the others.

    ``require`` ("cuda>=95%") and ``fail_if`` ("p90>20ms") make a measured profile a GateMissed error as well.
    """
    from edgevit.profiles import gates
    from edgevit.profiles.layers import parse_requirement

    requirements, failing = [parse_requirement(text) for text in require], gates.parse_all(fail_if)
    options["layers"] = options.get("layers", False) or bool(requirements)
    if on:
        results = _profiles_there(artifacts, progress_for, on, {**options, "link": link, "out": out})
    else:
        results = [_profile_here(path, progress_for(str(path)), options) for path in artifacts]
    return [one if one.error else replace(one, error=_missed(one, requirements, failing)) for one in results]


def _profile_here(path: Path, progress: Progress, options: Mapping[str, Any]) -> ProfileResult:
    from edgevit.profiles.latency import profile

    try:
        return ProfileResult(str(path), profile(path, progress=progress, **options).full_record())
    except EdgeVitError as error:
        return ProfileResult(str(path), error=error)


def _profiles_there(
    artifacts: Sequence[Path], progress_for: Callable[[str], Progress], nodes: Sequence[str], options: dict[str, Any]
) -> list[ProfileResult]:
    from edgevit.fleet.operating.remote_profile import profile_on

    def heard(node: str, path: Path, stage: str, share: float | None) -> None:
        progress_for(f"{node} {path}")(stage, share)

    found = profile_on(nodes, artifacts, on_progress=heard, **options)
    return [ProfileResult(f"{one.node} {one.artifact}", one.full, one.error, one.node, one.file) for one in found]


def _missed(result: ProfileResult, requirements: Sequence[Requirement], failing: Sequence[Gate]) -> EdgeVitError | None:
    """That a measurement failed, or the first requirement or gate that it misses. Layers that could not be timed meet
    no requirement."""
    from edgevit.profiles import gates

    full, layers = _present(result.full), result.layers
    if full["verdict"] == "FAILED":
        return EdgeVitError("; ".join(full["reasons"]))
    if requirements and layers is None:
        return GateMissed("where the time was spent is not known, so --require is not met", hint=full["reasons"][-1])
    try:
        for requirement in requirements:
            if layers is not None:
                requirement.check(layers)
    except GateMissed as error:
        return error
    figures = gates.figures_of(full)
    missed = [sentence for gate in failing if (sentence := gate.missed(figures))]
    return GateMissed("; ".join(missed)) if missed else None


def layer_rows(layers: Layers) -> list[tuple[str, ...]]:
    """Lines of the layer table: the operators that take most, then the modules and the units."""
    total = layers.total_ms or 1.0
    return [
        (kind, name, render.ms(ms), f"{ms / total:.0%}")
        for kind in ("op", "module", "unit")
        for name, ms in list(layers.by(kind).items())[:SHOWN_LAYERS]
    ]


def accuracy_line(found: Mapping[str, Any]) -> str:
    """Top-1 and top-5 (the fields of ``FileAccuracy``) of the file that was timed, in words."""
    best = "" if found["top5"] is None else f", top-5 {found['top5']:.2%}"
    images = render.counted(found["images"], "image")
    return f"top-1 {found['top1']:.2%}{best} on {images} of {found['data']} (model sha256 {found['sha256'][:12]}…)"
