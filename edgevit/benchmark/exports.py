"""The exports of a benchmark, each model's in a process of its own: one may crash, and the process that measures holds
neither torch nor its memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgevit import registry, worker
from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.benchmark.job import BenchmarkJob, refusal
from edgevit.benchmark.ledger import Ledger
from edgevit.errors import BadArtifact, EdgeVitError, ExportFailed, WorkerFailed
from edgevit.export.prepared import check
from edgevit.export.targets import Build, builds, choose
from edgevit.request import ExportRequest, of_record

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Built:
    """One target's export: an artifact, or why there is none."""

    artifact: Artifact | None = None
    error: EdgeVitError | None = None
    reused: bool = False
    elsewhere: bool = False


def exports(job: BenchmarkJob, model: str, ledger: Ledger, progress_for: Callable[[str], Progress]) -> dict[str, Built]:
    """Every target of a model, in the order asked for. Those of earlier runs are taken as they are."""
    request = job.export_of(model)
    found: dict[str, Built] = {}
    todo: dict[str, dict[str, Any]] = {}
    for target in request.targets:
        if (why := refusal("exporter", target, request.model.format)) is not None:
            found[target] = Built(error=why, elsewhere=job.everywhere)
            continue
        decided = deciding(request, target)
        try:
            _check_ours(request, target)
            kept = None if request.force else ledger.exported(model, target, decided)
        except BadArtifact as error:
            hint = "add --force to export it again"
            found[target] = Built(error=BadArtifact(str(error), hint=hint))
            continue
        except EdgeVitError as error:
            found[target] = Built(error=error)
            continue
        if kept is not None:
            found[target] = Built(kept, reused=True)
        else:
            todo[target] = decided
    if todo:
        since = {target: ledger.begin(model, target, decided) for target, decided in todo.items()}
        for target, built in _export(request, since, progress_for(model)).items():
            found[target] = built
            if built.artifact:
                ledger.finish(model, target, built.artifact.path)
    return {target: found[target] for target in request.targets}


def _check_ours(request: ExportRequest, target: str) -> None:
    """The errors of ``choose``, without a process; a plug-in's exporter is loaded in one only, which it may crash."""
    if registry.row("exporter", target).path.startswith("edgevit."):
        choose(target, request.precision, request.options.get(target, {}), request.model.format)


def deciding(request: ExportRequest, target: str) -> dict[str, Any]:
    """All that decides what an export makes: files by their content."""
    model, record = request.model, request.record()
    files = [name for name in (model.weights, str(model.source).partition(".py:")[0] + ".py") if name]
    contents = {name: sha256_of(Path(name)) for name in files if Path(name).is_file()}
    if model.format == "onnx":
        contents[str(model.source)] = _sha256_of_onnx(Path(str(model.source)))
    return {
        **record["model"],
        **{name: record[name] for name in ("precision", "batch", "data")},
        **({"task": request.task} if request.task else {}),  # what an earlier edgevit kept says nothing of it
        "options": dict(request.options.get(target, {})),
        "sha256": contents,
        "edgevit": registry.version_of("edgevit"),
    }


def _sha256_of_onnx(path: Path) -> str:
    """Of the file and of those that hold its weights; "" of one that cannot be read, which the export will say."""
    from edgevit.export.from_onnx.file import read

    try:
        return read(path).sha256
    except EdgeVitError:
        return ""


def _export(request: ExportRequest, since: Mapping[str, str], progress: Progress) -> dict[str, Built]:
    """Build targets in one process, which prepares the model once; when that dies, the others one by one."""
    payload = {"request": _only(request, since).record(), "since": dict(since)}
    try:
        check(request)
        answer = worker.call("edgevit.benchmark.exports:export_in_worker", payload, on_progress=progress)
    except WorkerFailed as error:
        if len(since) > 1:
            alone = [_export(request, {target: time}, progress) for target, time in since.items()]
            return {target: built for one in alone for target, built in one.items()}
        return {target: Built(error=ExportFailed(str(error), hint=error.hint)) for target in since}
    except EdgeVitError as error:  # the model itself: it is the same for every target
        return {target: Built(error=error) for target in since}
    return {target: _built(outcome) for target, outcome in answer["targets"].items()}


def _only(request: ExportRequest, targets: Collection[str]) -> ExportRequest:
    """The request for some of its targets."""
    options = {target: given for target, given in request.options.items() if target in targets}
    return replace(request, targets=tuple(targets), options=options)


def _built(outcome: Mapping[str, Any]) -> Built:
    if outcome["error"]:
        return Built(error=worker.revive(outcome["error"]))
    return Built(Artifact.open(outcome["folder"]))


def export_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: build the targets of ``payload["request"]`` and answer with the folder or the error of each. One
    that an interrupted run had published ``since`` is taken as it is."""
    from edgevit import build

    request = of_record(payload["request"])
    found = {} if request.force else dict(_published(request, payload["since"]))
    if rest := [target for target in request.targets if target not in found]:
        for outcome in build.exports(_only(request, rest), _reporter):
            found[outcome.subject] = _answer(outcome.artifact, outcome.error)
    return {"targets": found}


def _published(request: ExportRequest, since: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The targets of which an artifact made since then is there; an error for one that is not sound."""
    for target, one in builds(replace(request, force=True)).items():
        if not isinstance(one, Build) or not (one.out / MANIFEST).is_file():
            continue
        try:
            artifact = Artifact.open(one.out)
            if artifact.manifest.created >= since[target]:
                artifact.check_files()
                yield target, _answer(artifact, None)
        except EdgeVitError as error:
            yield target, _answer(None, error)


def _answer(artifact: Artifact | None, error: EdgeVitError | None) -> dict[str, Any]:
    return {
        "folder": str(artifact.path) if artifact else None,
        "error": worker.describe(error) if error else None,
    }


def _reporter(target: str) -> Progress:
    return lambda stage, fraction: worker.report(f"{target}: {stage}", fraction)
