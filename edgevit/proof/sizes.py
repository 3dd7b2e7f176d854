"""The proof of an artifact that takes a range of image sizes, at those of ``SizeRange.to_prove`` beside its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevit.artifact.golden import golden_at
from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.sampling import strided
from edgevit.errors import EdgeVitError
from edgevit.proof.parity import Judge
from edgevit.proof.reference import Reference, read_reference
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import rows_in_turn
from edgevit.sizes import Sides, as_size

References = Mapping[Sides, Reference]


def golden_references(artifact: Artifact) -> dict[Sides, Reference]:
    """The stored rows of every size that its range has to be proved at. BadArtifact where one is missing."""
    sizes, steps, parity = artifact.manifest.image_sizes, artifact.manifest.preprocess, artifact.manifest.parity
    found: dict[Sides, Reference] = {}
    for size in sizes.to_prove(steps.size) if sizes and steps else ():
        inputs, outputs, clear = artifact.golden_of(golden_at(size), size)
        found[size] = Reference(inputs, outputs, parity.tolerance, parity.noise, parity.bounds, clear)
    return found


def compare_sizes(
    session: Session, own: Parity, references: References, batches: Sequence[int], *, stored: bool
) -> Parity:
    """``own`` and the same of images of the other sizes: the worst of all. A failure's ``reason`` names the size.

    The rows come one call at a time, and are judged whole; of ``stored`` references, which know large ones in part, so.
    """
    manifest, found = session.artifact.manifest, own
    for size, reference in references.items():
        try:
            judged = _judged(session, reference, batches, stored=stored)
        except EdgeVitError as exc:
            judged = own.model_copy(update={"status": "failed", "reason": str(exc)})
        found = found if found.status == "failed" else _worse(found, judged, size)
    if not references or manifest.preprocess is None:
        return own
    proved = (Sides(*manifest.preprocess.size), *references)
    return found.model_copy(update={"sizes": tuple(map(str, proved))})


def _judged(session: Session, reference: Reference, batches: Sequence[int], *, stored: bool) -> Parity:
    logits = session.artifact.manifest.logits_output()
    judge = Judge(reference, logits.name if logits else None, session.runtime)
    for batch in batches:
        for first, outputs in rows_in_turn(session, reference.inputs, batch):
            judge.take(batch, first, strided(outputs) if stored else outputs)
    return judge.verdict()


def compare_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. ``payload``: artifact, threads, batches, own (a Parity that holds), references (size -> what
    ``write_reference`` wrote). Returns a Parity as JSON."""
    own = Parity.model_validate(payload["own"], strict=False)
    references = {
        as_size(size): read_reference(Path(file), own.tolerance, own.noise, own.bounds)
        for size, file in payload["references"].items()
    }
    with open_session(Artifact.open(payload["artifact"]), own.runtime, threads=payload["threads"]) as session:
        found = compare_sizes(session, own, references, payload["batches"], stored=False)
    return found.model_dump(mode="json")


def _worse(own: Parity, other: Parity, size: Sides) -> Parity:
    """The figures of both; those of the one that failed, if it did."""
    if other.status == "failed":
        return other.model_copy(update={"reason": f"at images of {size}: {other.reason}", "images": own.images})
    outputs = {
        name: max(figures, other.outputs.get(name, figures), key=lambda one: one.max_rel)
        for name, figures in own.outputs.items()
    }
    doubt = {"status": "unverified", "reason": f"at images of {size}: {other.reason}"}
    return own.model_copy(
        update={
            **(doubt if other.status == "unverified" and own.status == "verified" else {}),
            "max_abs": _extreme(max, own.max_abs, other.max_abs),
            "max_rel": _extreme(max, own.max_rel, other.max_rel),
            "cosine": _extreme(min, own.cosine, other.cosine),
            "outputs": outputs,
        }
    )


def _extreme(pick: Callable[[list[float]], float], *values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return pick(known) if known else None
