"""The exports of a benchmark, each model's in a process of its own: one may crash, and the process that measures holds
neither torch nor its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevit import errors, jobs, registry, worker
from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.benchmark.job import BenchmarkJob, refusal
from edgevit.benchmark.ledger import Ledger
from edgevit.errors import BadArtifact, EdgeVitError, ExportFailed, WorkerFailed

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
    found: dict[str, Built] = {}
    todo: dict[str, dict[str, Any]] = {}
    for target in job.target_names():
        if (why := refusal("exporter", target)) is not None:
            found[target] = Built(error=why, elsewhere="all" in job.targets)
            continue
        request = _export_request(job, model, target)
        try:
            kept = None if job.force else ledger.exported(model, target, request)
        except BadArtifact as error:
            hint = "add --force to export it again"
            found[target] = Built(error=BadArtifact(str(error), hint=hint))
            continue
        if kept is not None:
            found[target] = Built(kept, reused=True)
        else:
            todo[target] = request
    if todo:
        found |= _export(job, model, todo, ledger, progress_for(model))
    return {target: found[target] for target in job.target_names()}


def _export_request(job: BenchmarkJob, model: str, target: str) -> dict[str, Any]:
    """All that decides what an export makes: files by their content."""
    names = ("weights", "pretrained", "precision", "batch", "image_size", "classes", "data")
    files = [name for name in (job.weights, model.partition(".py:")[0] + ".py") if name and Path(name).is_file()]
    return {
        **{name: getattr(job, name) for name in names},
        "options": jobs.split_options(job.options, job.target_names())[target],
        "sha256": {name: sha256_of(Path(name)) for name in files},
        "edgevit": registry.version_of("edgevit"),
    }


def _export(
    job: BenchmarkJob, model: str, todo: Mapping[str, Mapping[str, Any]], ledger: Ledger, progress: Progress
) -> dict[str, Built]:
    """Build targets in one process, which prepares the model once; when that dies, the others one by one."""
    since = {target: ledger.begin(model, target, request) for target, request in todo.items()}
    payload = {
        "job": {**asdict(job), "out": str(job.out), "model": model},
        "targets": since,
        "options": {target: request["options"] for target, request in todo.items()},
    }
    try:
        answer = worker.call("edgevit.benchmark.exports:export_in_worker", payload, on_progress=progress)
    except WorkerFailed as error:
        if len(todo) > 1:
            alone = [_export(job, model, {target: request}, ledger, progress) for target, request in todo.items()]
            return {target: built for one in alone for target, built in one.items()}
        return {target: Built(error=ExportFailed(str(error), hint=error.hint)) for target in todo}
    except EdgeVitError as error:  # the model itself: it is the same for every target
        return {target: Built(error=error) for target in todo}
    found = {}
    for target, outcome in answer["targets"].items():
        if outcome["folder"] is None:
            found[target] = Built(error=_revived(outcome["error"]))
            continue
        ledger.finish(model, target, Path(outcome["folder"]))
        found[target] = Built(Artifact.open(outcome["folder"]))
    return found


def export_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: build ``payload["targets"]`` (name -> time since which an artifact is of this request) and answer
    with the folder or the error of each. One that an interrupted run had published already is taken as it is."""
    from edgevit import build

    asked = payload["job"]
    out = Path(asked["out"])
    found: dict[str, dict[str, Any]] = {}
    for target, since in payload["targets"].items():
        try:
            chosen = build.choose_target(target, asked["precision"], payload["options"][target])
            folder = out / build.default_out(asked["model"], target, chosen.precision).name
            if not asked["force"] and _published(folder, since):
                found[target] = {"folder": str(folder), "error": None}
        except EdgeVitError as error:
            found[target] = {"folder": None, "error": _described(error)}
    rest = [target for target in payload["targets"] if target not in found]
    if not rest:
        return {"targets": found}
    names = ("weights", "pretrained", "precision", "batch", "image_size", "classes", "data", "threads", "timeout_s")
    request = jobs.ExportJob(
        model=asked["model"],
        targets=tuple(rest),
        out=out,
        parent=True,
        options=tuple(
            f"{target}.{key}={value}" for target in rest for key, value in payload["options"][target].items()
        ),
        force=asked["force"],
        **{name: asked[name] for name in names},
    )
    for result in jobs.run_export(request, _reporter):
        folder_made = str(result.artifact.path) if result.artifact else None
        found[result.subject if result.error else _target_of(result)] = {
            "folder": folder_made,
            "error": _described(result.error) if result.error else None,
        }
    return {"targets": found}


def _published(folder: Path, since: str) -> bool:
    """Whether a sound artifact made since then is there."""
    if not (folder / MANIFEST).is_file() or (artifact := Artifact.open(folder)).manifest.created < since:
        return False
    artifact.check_files()
    return True


def _target_of(result: jobs.ExportResult) -> str:
    return result.artifact.manifest.target if result.artifact else result.subject


def _reporter(target: str) -> Progress:
    return lambda stage, fraction: worker.report(f"{target}: {stage}", fraction)


def _described(error: EdgeVitError) -> dict[str, Any]:
    kind = next(one for one in type(error).__mro__ if one.__module__ == errors.__name__)
    return {"kind": kind.__name__, "message": str(error), "hint": error.hint}


def _revived(record: Mapping[str, Any]) -> EdgeVitError:
    """The error that ``_described`` described: its class decides the exit code."""
    kind: type[EdgeVitError] = getattr(errors, record["kind"])
    error = kind.__new__(kind)
    EdgeVitError.__init__(error, record["message"], hint=record["hint"])
    return error
