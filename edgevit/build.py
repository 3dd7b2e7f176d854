"""``edgevit.export``: from a model to a verified artifact. The only module that imports exporters and runtimes' names.

    model ─deploy form─▶ real rows ─▶ capture ─Exporter.write─▶ scratch folder ─worker: Runtime + Parity─▶ rename

``prepare`` does what all targets share (form, rows, capture, float64 reference); ``build_target`` does one target.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgevit import registry, signing, worker
from edgevit.artifact.files import hash_tree, write_atomically
from edgevit.artifact.golden import GOLDEN_ROWS, write_golden
from edgevit.artifact.manifest import MANIFEST as MANIFEST_FILE
from edgevit.artifact.manifest import Array, BatchRange, Manifest, Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.staging import check_vacant, publish, staged
from edgevit.errors import (
    ExportFailed,
    MissingDependency,
    ParityFailed,
    UnknownName,
    Unsupported,
    UsageError,
    WorkerFailed,
)
from edgevit.export.base import Built, Context, Exporter, Options, Progress, load_exporter, parse_options, silent
from edgevit.export.prepare import Form as Form
from edgevit.export.prepare import Prepared as Prepared
from edgevit.export.prepare import Request as Request
from edgevit.export.prepare import prepare as prepare
from edgevit.export.reference import noise
from edgevit.models.spec import spec_of
from edgevit.proof.parity import Reference, batches_to_prove, tolerance_for, write_reference

PROOF_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Target:
    """One exporter with everything it was asked for, checked."""

    exporter: Exporter
    precision: str
    options: Options


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
    image_size: int | tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    force: bool = False,
    verify: bool = True,
    inputs: Mapping[str, Array] | None = None,
    threads: int | None = None,
    timeout_s: float | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Build ``target`` from a model (a name, or a module), prove that it computes the same, and publish it at ``out``.

    ``batch`` is a number or a range "1-8". ``inputs`` are arrays (16 rows or more) by argument name, for models that
    take no image. The proof compares the artifact with the model as given (before re-parameterisation) in float64 on
    real images: ``data``, else what the checkpoint was trained on, else "samples". On failure the folder is kept as
    ``OUT.failed``. Raises the tree of ``edgevit.errors``.
    """
    chosen = choose_target(target, precision, options or {})
    name = model if isinstance(model, str) else (spec.name if (spec := spec_of(model)) else type(model).__name__)
    folder = Path(out) if out is not None else default_out(name, target, chosen.precision)
    check_vacant(folder, force=force)
    request = Request(
        batch=parse_batch(batch),
        data=data,
        form=checked_form(form),
        bake_preprocess=bake_preprocess,
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        labels=tuple(labels) if labels is not None else None,
        inputs=inputs,
        threads=threads,
        verify=verify,
        progress=progress or silent,
        timeout_s=timeout_s,
    )
    with torch_threads(threads):
        return build_target(prepare(model, request), chosen, folder)


def default_out(model: str, target: str, precision: str) -> Path:
    """``artifacts/MODEL-TARGET-PRECISION``; a model's name is made safe for a folder."""
    stem = Path(model.rpartition("/")[2].replace(".py:", "-")).name
    safe = "".join(char if char.isalnum() or char in "._-" else "-" for char in stem)
    return Path("artifacts") / f"{safe}-{target}-{precision}"


def parse_batch(batch: int | str) -> BatchRange:
    """1, "4" or "1-8". UsageError for anything else."""
    low, dash, high = str(batch).strip().partition("-")
    try:
        found = int(low), int(high if dash else low)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise UsageError(f"batch must be a number or a range, got {batch!r}", hint="for example 1, or 1-8")
    return BatchRange(min=found[0], max=found[1])


def choose_target(target: str, precision: str | None, options: Mapping[str, Any]) -> Target:
    """The exporter, its precision (default: its first) and its options, all checked before any work is done."""
    exporter = load_exporter(target)
    chosen = precision or exporter.precisions[0]
    if chosen not in exporter.precisions:
        raise UnknownName(f"precision of {target}", chosen, exporter.precisions)
    return Target(exporter, chosen, parse_options(exporter, options))


def checked_form(form: str) -> Form:
    if form == "deploy":
        return "deploy"
    if form == "train":
        return "train"
    raise UnknownName("form", form, ("deploy", "train"))


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- one target ------------------------------------------------------------------------------------------------------


def build_target(prepared: Prepared, target: Target, out: Path) -> Artifact:
    """Build, prove and publish one target. Nothing is left at ``out`` unless the proof held (or could not be run)."""
    say = prepared.request.progress
    with staged(out) as scratch:
        say(f"build {target.exporter.name} {target.precision}", None)
        built = target.exporter.write(
            prepared.capture, scratch, precision=target.precision, options=target.options, context=_context(prepared)
        )
        say("noise of the precision", None)
        level = _noise(prepared, target, built)
        write_golden(scratch, golden_arrays(prepared), list(prepared.rows.pixels[:GOLDEN_ROWS]))
        pending = Parity(
            status="unverified", reason="not verified yet", tolerance=_tolerance(level, target), noise=level
        )
        manifest = make_manifest(prepared, target, built, hash_tree(scratch), pending)
        _write_manifest(scratch, manifest)
        if registry.row("exporter", target.exporter.name).carries_code:
            signing.sign(scratch)
        say("prove", None)
        manifest = manifest.model_copy(update={"parity": proof(prepared, scratch, pending)})
        _write_manifest(scratch, manifest)
        if manifest.parity.status == "failed":
            raise _kept_aside(scratch, out, manifest.parity)
        publish(scratch, out)
    return Artifact(out, manifest)


def _context(prepared: Prepared) -> Context:
    request = prepared.request
    return Context(progress=request.progress, timeout_s=request.timeout_s, threads=request.threads)


def _noise(prepared: Prepared, target: Target, built: Built) -> float:
    module, exact = prepared.capture.module, list(prepared.exact.values())
    return noise(module, prepared.rows.inputs, exact, target.precision, built.precision.kept_fp32)


def _tolerance(level: float, target: Target) -> float:
    return tolerance_for(level, target.precision)


def golden_arrays(prepared: Prepared) -> dict[str, Array]:
    """The first rows of every input and of the reference outputs, in the types of the specs."""
    arrays = {name: array[:GOLDEN_ROWS] for name, array in prepared.rows.inputs.items()}
    for spec in prepared.capture.outputs:
        arrays[spec.name] = prepared.exact[spec.name][:GOLDEN_ROWS].astype(spec.dtype)
    return arrays


def make_manifest(prepared: Prepared, target: Target, built: Built, files: dict[str, str], parity: Parity) -> Manifest:
    """edgevit.json of one built target."""
    captured = prepared.capture
    return Manifest(
        edgevit=registry.own_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        target=target.exporter.name,
        precision=target.precision,
        options=target.options.model_dump(),
        entry=built.entry,
        model=prepared.info,
        labels=prepared.labels,
        batch=captured.batch,
        inputs=captured.inputs,
        outputs=captured.outputs,
        preprocess=prepared.preprocess,
        parity=parity,
        precision_report=built.precision,
        reparam=prepared.reparam,
        accuracy=prepared.accuracy,
        versions={"python": _python_version(), **built.versions},
        lock=dict(built.lock),
        notes=(*prepared.notes, *built.notes),
        files=files,
    )


def _python_version() -> str:
    import platform

    return platform.python_version()


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomically(folder / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")


def proof(prepared: Prepared, folder: Path, pending: Parity) -> Parity:
    """Parity of the built folder, found in a worker process; unverified, with the reason, where it cannot run here."""
    if not prepared.request.verify:
        return pending.model_copy(update={"reason": "not verified: --no-verify"})
    with tempfile.TemporaryDirectory(prefix="edgevit-proof-") as scratch:
        rows = Path(scratch) / "rows.npz"
        reference = Reference(prepared.rows.inputs, prepared.exact, pending.tolerance, pending.noise)
        write_reference(rows, reference)
        payload = {
            "artifact": str(folder),
            "reference": str(rows),
            "tolerance": pending.tolerance,
            "noise": pending.noise,
            "batches": batches_to_prove(prepared.capture.batch),
            "threads": prepared.request.threads,
        }
        try:
            found = worker.call("edgevit.proof.parity:compare_in_worker", payload, timeout=PROOF_TIMEOUT_S)
        except (Unsupported, MissingDependency) as exc:
            return pending.model_copy(update={"reason": _needs(exc)})
        except WorkerFailed as exc:
            raise ExportFailed(f"the built artifact could not be run: {exc}", hint=exc.hint) from exc
        return Parity.model_validate(found, strict=False)


def _needs(exc: Exception) -> str:
    return str(exc) if str(exc).startswith("needs") else f"needs what is not here: {exc}"


def _kept_aside(scratch: Path, out: Path, parity: Parity) -> ParityFailed:
    """Keep a failed build as ``OUT.failed``; the error that says so."""
    failed = out.with_name(f"{out.name}.failed")
    if failed.exists():
        shutil.rmtree(failed)
    publish(scratch, failed)
    found = "not a number" if parity.max_rel is None else f"{parity.max_rel:.2e}"
    cause = f" ({parity.reason})" if parity.reason else ""
    return ParityFailed(
        f"the artifact does not compute its model: error {found}, tolerance {parity.tolerance:.2e}{cause}",
        hint=f"the folder is kept as {failed}; try --precision fp32, and report the model if that fails too",
    )
