"""``edgevit export``: from a request to proved artifacts. The only module that imports exporters and runtimes' names.

    request ─prepare─▶ form, rows, capture, reference ─Exporter.write─▶ scratch ─worker: Runtime + Parity─▶ rename

``exports`` prepares a model once (what all targets share) and then builds, proves and publishes each target.
Without torch this module can be imported, and says what is missing.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit import registry, render, signing, worker
from edgevit.amounts import parse_bytes
from edgevit.artifact.claim import check_room, claimed
from edgevit.artifact.files import hash_tree, write_atomically
from edgevit.artifact.golden import GOLDEN_ROWS, golden_at, write_arrays, write_golden
from edgevit.artifact.goodness import Loss
from edgevit.artifact.manifest import MANIFEST as MANIFEST_FILE
from edgevit.artifact.manifest import Array, Manifest, Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import sealed
from edgevit.artifact.staging import check_vacant, failed_name, publish, staged
from edgevit.disk import filling
from edgevit.errors import EdgeVitError, ExportFailed, MissingDependency, ParityFailed, Unsupported, WorkerFailed
from edgevit.export.base import Context, Progress, silent
from edgevit.export.described import bounds_of, golden_arrays, make_manifest, pending
from edgevit.export.durations import remember
from edgevit.export.prepared import Levels, Prepared, check, way_of
from edgevit.export.rehearsal import REHEARSED as REHEARSED
from edgevit.export.rehearsal import rehearse as rehearse
from edgevit.export.targets import Build, Target, builds
from edgevit.export.weight import bytes_in, check_weight, notes_on_weight, said_of_weight
from edgevit.export.written import Written, written
from edgevit.precisions import precision_row
from edgevit.proof.answering import answering
from edgevit.proof.failure import failure
from edgevit.proof.parity import batches_to_prove
from edgevit.proof.reference import Reference, write_reference
from edgevit.proof.thinning import samples_of
from edgevit.quantize.asked import Quantizing, quantizing_of
from edgevit.request import ExportRequest, Form, ModelChoice, chosen_size, parse_batch
from edgevit.steps import steps_of

if TYPE_CHECKING:
    from torch import nn

PROOF = "edgevit.proof.parity"
PROOF_TIMEOUT_S = 1800.0
NOT_PROVED = "not verified: --no-verify"
COLUMNS = ("artifact", "target", "precision", "size", "seconds", "parity", "max rel. error", "tolerance")


@dataclass(frozen=True)
class Outcome:
    """What became of one target: an artifact, an error, or (with ``require_verified``) both.

    seconds   that were waited for it. The preparation that all targets share is counted once, with the first that has
              an artifact, so that they add up to the time of the command
    notes     what a user should be told although it is no error
    reused    what an earlier export had found out, by name
    """

    subject: str
    artifact: Artifact | None = None
    error: EdgeVitError | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit export --json`` lists, of a target that has an artifact."""
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

    def details(self) -> Iterator[str]:
        """What was built, in sentences for ``--verbose``."""
        artifact = _present(self.artifact)
        manifest, parity = artifact.manifest, artifact.manifest.parity
        options = ", ".join(f"{name}={value}" for name, value in manifest.options.items())
        layers = ", ".join(f"{count} {kind}" for kind, count in manifest.precision_report.layers.items())
        versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        noise = "unknown" if parity.noise is None else f"{parity.noise:.1e}"
        batches = ", ".join(map(str, parity.batches)) or "none"
        yield f"{self.subject}: {', '.join(sorted(manifest.files))} in {artifact.path.absolute()}"
        yield f"{self.subject}: made with {versions}; options {options or 'none'}"
        yield f"{self.subject}: compute layers {layers or 'not counted'}; weights {manifest.model.weights.origin}"
        yield f"{self.subject}: noise of {manifest.precision} {noise}, batches proved {batches}"
        yield f"{self.subject}: as an earlier export found: {', '.join(self.reused) or 'nothing'}"

    def row(self) -> tuple[str, ...]:
        """Cells of ``COLUMNS``."""
        artifact = _present(self.artifact)
        manifest, parity = artifact.manifest, artifact.manifest.parity
        status = f"{parity.status}: --no-verify" if parity.reason == NOT_PROVED else parity.status
        random = manifest.model.weights.random
        return (
            str(artifact.path),
            manifest.target,
            manifest.precision,
            render.si(artifact.size_bytes(), "B"),
            f"{self.seconds:.1f}",
            ", ".join(filter(None, (status, parity.hanging(), "random weights" if random else ""))),
            "—" if parity.max_rel is None else f"{parity.max_rel:.1e}",
            f"{parity.tolerance:.1e}",
        )


def _present(found: Artifact | None) -> Artifact:
    if found is None:
        raise ValueError("what failed has no record")
    return found


def export(
    model: str | nn.Module,
    target: str,
    *,
    out: Path | str | None = None,
    precision: str | None = None,
    batch: int | str = 1,
    options: Mapping[str, Any] | None = None,
    data: str | None = None,
    form: Form = "deploy",
    bake_preprocess: bool = False,
    image_size: int | str | tuple[int, int] | None = None,
    preprocess: Any = None,
    labels: Sequence[str] | None = None,
    task: str | None = None,
    force: bool = False,
    verify: bool = True,
    inputs: Mapping[str, Array] | None = None,
    threads: int | None = None,
    timeout_s: float | None = None,
    max_size: int | str | None = None,
    cache: bool = True,
    quantizing: Quantizing | Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Build ``target`` from a model (a name, or a module), prove that it computes the same, and publish it at ``out``.

    ``task`` says what the outputs mean, where the model does not. ``batch`` is a number or a range "1-8".
    ``preprocess`` is a ``Preprocess``, or a dict of what differs from the model's own: ``{"mean": 0.5, "std": 0.5,
    "crop": "squash", "interpolation": "bilinear", "range": "0-255"}``. ``inputs`` are arrays (16 rows or more) by
    argument name, for models that take no image. ``max_size`` is what the model files may have, "8MB".
    ``quantizing`` says how integers of "int8" are found: {"calibrate": "digits", "max_drop": 0.5}. The proof
    compares the artifact with the model as given (before re-parameterisation) in float64 on real images: ``data``, else
    what the checkpoint was trained on, else "samples".
    On failure the folder is kept as ``OUT.failed``. Raises the tree of ``edgevit.errors``.
    """
    size, sizes = chosen_size(image_size)
    request = ExportRequest(
        model=ModelChoice(model, image_size=size, steps=steps_of(preprocess), image_sizes=sizes),
        targets=(target,),
        precision=precision,
        batch=parse_batch(batch),
        options={target: options or {}},
        form=form,
        bake_preprocess=bake_preprocess,
        labels=tuple(labels) if labels is not None else None,
        task=task,
        inputs=inputs,
        data=data,
        out=Path(out) if out is not None else None,
        force=force,
        verify=verify,
        threads=threads,
        timeout_s=timeout_s,
        max_size=parse_bytes(max_size) if isinstance(max_size, str) else max_size,
        cache=cache,
        quantizing=quantizing_of(quantizing),
    )
    return artifact(request, progress)


def artifact(request: ExportRequest, progress: Progress = silent) -> Artifact:
    """The artifact of a request for one target; an error is raised."""
    (outcome,) = exports(request, lambda _: progress)
    if outcome.error:
        raise outcome.error
    return _present(outcome.artifact)


def exports(request: ExportRequest, progress_for: Callable[[str], Progress] = lambda _: silent) -> Iterator[Outcome]:
    """Load and prepare the model once, then build every target in turn: each is tried, a failure is an outcome.

    ``progress_for`` is given "prepare", then each target. Raises only what concerns all targets: errors of loading and
    preparing the model, which is not done when no target can be built.
    """
    started = time.perf_counter()
    with contextlib.ExitStack() as claims:
        found = {name: _claimed(one, request, claims) for name, one in builds(request).items()}
        yield from _built(found, request, progress_for, started)


def _claimed(one: Build | EdgeVitError, request: ExportRequest, claims: contextlib.ExitStack) -> Build | EdgeVitError:
    """The build, its folder held until all are done; or the error that another holds it, or it cannot be written."""
    if isinstance(one, EdgeVitError):
        return one
    try:
        claims.enter_context(claimed(one.out))
        check_vacant(one.out, force=request.force)
    except EdgeVitError as error:
        return error
    return one


def _built(
    found: Mapping[str, Build | EdgeVitError],
    request: ExportRequest,
    progress_for: Callable[[str], Progress],
    started: float,
) -> Iterator[Outcome]:
    if not any(isinstance(one, Build) for one in found.values()):
        yield from (Outcome(name, error=error) for name, error in found.items() if isinstance(error, EdgeVitError))
        return
    check(request)  # before a process is started, and torch imported
    with contextlib.ExitStack() as stack:
        # The first proof's process starts now, and has imported its engine by the time there is something to prove.
        first = next(one for one in found.values() if isinstance(one, Build))
        prover = stack.enter_context(worker.wait(PROOF, *_engine(first))) if request.verify else None
        yield from _all_tried(request, found, prover, progress_for, started)


def _engine(build: Build) -> tuple[str, ...]:
    """The module of the runtime that a target's artifacts are proved on here."""
    row = registry.row("runtime", registry.runtimes_for(build.target.name)[0])
    return (row.path.partition(":")[0],) if row.on_this_machine().able else ()


def _all_tried(
    request: ExportRequest,
    found: Mapping[str, Build | EdgeVitError],
    prover: worker.Waiting | None,
    progress_for: Callable[[str], Progress],
    started: float,
) -> Iterator[Outcome]:
    way = way_of(request.model)
    with way.threads(request.threads):
        prepared = way.prepare(request, progress_for("prepare"))
    left = shared = time.perf_counter() - started
    for name, one in found.items():
        if isinstance(one, EdgeVitError):
            yield Outcome(name, error=one)
        else:
            with way.threads(request.threads):
                outcome = _tried(prepared, one, shared, progress_for(name), prover)
            if outcome.artifact:
                outcome, left = replace(outcome, seconds=outcome.seconds + left), 0.0
            yield outcome


def _tried(
    prepared: Prepared, build: Build, shared: float, progress: Progress, prover: worker.Waiting | None
) -> Outcome:
    name, started = build.target.name, time.perf_counter()
    try:
        artifact = build_target(prepared, build.target, build.out, progress, prover)
    except EdgeVitError as error:
        return Outcome(name, error=error, seconds=time.perf_counter() - started, notes=_notes(prepared))
    seconds = time.perf_counter() - started
    remember(prepared.request, build.target, shared + seconds)
    heavy = said_of_weight(artifact.manifest.notes)
    integers = artifact.manifest.integers
    loss = artifact.manifest.loss
    said = (*heavy, *(integers.sentences() if integers else ()), *((loss.sentence(),) if loss else ()))
    notes = (*_notes(prepared), *(f"{name}: {note}" for note in said))
    done = Outcome(name, artifact, seconds=seconds, notes=notes, reused=tuple(dict.fromkeys(prepared.reused)))
    return _judged(prepared, done)


def _notes(prepared: Prepared) -> tuple[str, ...]:
    """What was assumed or chosen when the model was loaded, in sentences."""
    ways = "--pretrained or --weights" if prepared.info.source in registry.rows("source") else "--weights"
    said = (f"no {ways}, so the artifact holds random ones (seed 0)",) if prepared.info.weights.random else ()
    return tuple(f"{prepared.info.name}: {note}" for note in (*said, *prepared.notes))


def _judged(prepared: Prepared, outcome: Outcome) -> Outcome:
    """Say why an artifact is unverified; where proof is required that is an error."""
    artifact = _present(outcome.artifact)
    parity = artifact.manifest.parity
    if parity.status != "unverified":
        return outcome
    if not prepared.request.require_verified:
        said = f"unverified: {parity.reason}"
        if not prepared.request.verify:
            said = f"nothing proves that it computes its model (--no-verify); edgevit verify {artifact.path} proves it"
        return replace(outcome, notes=(*outcome.notes, f"{outcome.subject}: {said}"))
    hint = f"run edgevit verify {artifact.path} where it can run"
    if parity.images:
        hint = "load trained weights, which decide more clearly, or build it in a precision that moves less"
    return replace(outcome, error=ParityFailed(f"unverified: {parity.reason}", hint=hint))


# --- one target ------------------------------------------------------------------------------------------------------


def build_target(
    prepared: Prepared,
    target: Target,
    out: Path,
    say: Progress = silent,
    prover: worker.Waiting | None = None,
) -> Artifact:
    """Build, prove (in ``prover``, unless it was used) and publish one target. Nothing is left at ``out`` unless the
    proof held (or could not be run)."""
    context = Context(progress=say, timeout_s=prepared.request.timeout_s, threads=prepared.request.threads)
    check_room(out, prepared.info.params * (4 if target.precision == "fp32" else 2))
    with filling(out), staged(out) as scratch:
        say(f"build {target.name} {target.precision}", None)
        done = written(prepared, target, scratch, context)
        prepared, found = done.prepared, bytes_in(scratch)
        check_weight(target.name, found, prepared.request.max_size, done.built.constants)
        heavy = notes_on_weight(found, prepared.info.params, done.built.constants)
        done = done.noting(heavy)
        done.write_plan(scratch)
        say("noise of the precision", None)
        levels = prepared.noise(target.precision, done.built.precision.kept_fp32)
        samples = samples_of(prepared.reference.golden.outputs)
        write_golden(scratch, golden_arrays(prepared, levels, samples), list(prepared.rows.pixels[:GOLDEN_ROWS]))
        for size, sized in prepared.sized.items():
            write_arrays(scratch / golden_at(size), sized.golden(prepared.capture.outputs, levels, size))
        due = pending(bounds_of(levels.outputs, target.precision))
        manifest = make_manifest(done, target, hash_tree(scratch), due, samples)
        _write_manifest(scratch, manifest)
        if registry.row("exporter", target.name).carries_code or signing.has_key():
            signing.sign(scratch)
        if prepared.request.verify:
            say("prove", None)
        manifest = manifest.model_copy(update={"parity": proof(done, scratch, due, levels, prover)})
        manifest = manifest.model_copy(update={"loss": weighed(prepared, scratch, manifest, say)})
        _write_manifest(scratch, manifest)
        if manifest.parity.status == "failed":
            raise _kept_aside(scratch, out, manifest)
        publish(scratch, out, force=prepared.request.force)
    return Artifact.open(out)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomically(folder / MANIFEST_FILE, sealed(manifest).model_dump_json(indent=2) + "\n")


def proof(
    done: Written,
    folder: Path,
    due: Parity,
    levels: Levels,
    prover: worker.Waiting | None = None,
) -> Parity:
    """Parity of the built folder, found in a worker process; unverified, with the reason, where it cannot run here."""
    prepared = done.prepared
    if not prepared.request.verify:
        return due.model_copy(update={"reason": NOT_PROVED})
    with tempfile.TemporaryDirectory(prefix="edgevit-proof-") as scratch:
        rows = Path(scratch) / "rows.npz"
        answers = prepared.reference.whole
        clear = levels.clear(answers)
        reference = Reference(prepared.rows.inputs, answers.outputs, due.tolerance, due.noise, due.bounds, clear)
        write_reference(rows, reference)
        payload = {
            "artifact": str(folder),
            "reference": str(rows),
            "tolerance": due.tolerance,
            "noise": due.noise,
            "bounds": {name: bound.model_dump() for name, bound in due.bounds.items()},
            "batches": batches_to_prove(prepared.capture.batch),
            "threads": prepared.request.threads,
            "layers": done.write_layers(Path(scratch) / "layers.npz"),
        }
        try:
            found = worker.call(f"{PROOF}:compare_in_worker", payload, timeout=PROOF_TIMEOUT_S, waiting=prover)
        except (Unsupported, MissingDependency) as exc:
            return due.model_copy(update={"reason": _needs(exc)})
        except WorkerFailed as exc:
            raise ExportFailed(f"the built artifact could not be run: {exc}", hint=exc.hint) from exc
        return _at_all_sizes(prepared, folder, Parity.model_validate(found, strict=False), levels)


def weighed(prepared: Prepared, folder: Path, manifest: Manifest, say: Progress) -> Loss | None:
    """What the built folder's own answers cost on data, in a precision where that is asked; None where it cannot run
    here."""
    if not precision_row(manifest.precision).weighed or manifest.parity.status != "verified" or prepared.weigh is None:
        return None
    say("what the precision costs", None)
    with answering(folder, prepared.request.threads, PROOF_TIMEOUT_S) as ask:
        return prepared.weigh(ask)


def _at_all_sizes(prepared: Prepared, folder: Path, own: Parity, levels: Levels) -> Parity:
    """``own``, found at the size that the model was made for, and the same at the others that are to be proved."""
    if not prepared.sized or own.status != "verified":
        return own
    with tempfile.TemporaryDirectory(prefix="edgevit-proof-") as scratch:
        files = {str(size): str(Path(scratch) / f"{size}.npz") for size in prepared.sized}
        for size, sized in prepared.sized.items():
            answers = sized.reference.whole
            bounded = (own.tolerance, own.noise, own.bounds, levels.clear(answers, size))
            write_reference(Path(files[str(size)]), Reference(sized.inputs, answers.outputs, *bounded))
        payload = {
            "artifact": str(folder),
            "own": own.model_dump(mode="json"),
            "references": files,
            "batches": batches_to_prove(prepared.capture.batch),
            "threads": prepared.request.threads,
        }
        try:
            found = worker.call("edgevit.proof.sizes:compare_in_worker", payload, timeout=PROOF_TIMEOUT_S)
        except WorkerFailed as exc:
            raise ExportFailed(f"the built artifact could not be run: {exc}", hint=exc.hint) from exc
        return Parity.model_validate(found, strict=False)


def _needs(exc: Exception) -> str:
    return str(exc) if str(exc).startswith("needs") else f"needs what is not here: {exc}"


def _kept_aside(scratch: Path, out: Path, manifest: Manifest) -> ParityFailed:
    """Keep a failed build as ``OUT.failed``; the error that says so."""
    failed = failed_name(out)
    publish(scratch, failed)
    return failure(manifest, failed)
