"""An artifact on data that says what is true: how good its answers are, beside its parity and beside its latency."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.data.classes import class_indices
from edgevit.data.content import Content, content_of
from edgevit.data.labelled import LabelledData
from edgevit.data.source import has_own_split, open_data
from edgevit.data.split import spread
from edgevit.errors import UsageError
from edgevit.proof.accuracy import top_shares
from edgevit.proof.quality import quality_on
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.feeds import image_steps
from edgevit.runtimes.rows import run_rows
from edgevit.tasks.metrics.measuring import IMAGES

MAX_IMAGES = 2000  # as many as the accuracy recorded at export was measured on, spread over the data in the same way


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: how good ``payload["artifact"]`` is on ``payload["data"]``: its ``{accuracy}`` or its task's
    ``{quality}``, or the ``{reason}`` why it has none there. Raises what ``open_session`` raises, and ParityFailed for
    what gives no numbers."""
    artifact = Artifact.open(payload["artifact"])
    opening = {key: payload[key] for key in ("threads", "provider", "trust", "options")}
    with open_session(artifact, payload["runtime"], **opening) as session:
        try:
            whole = held_out(artifact, payload["data"])
            if (judged := quality_on(session, whole)) is not None:
                return {"quality": judged.quality.model_dump(mode="json")}
            if artifact.manifest.logits_output() is None:
                return {"reason": f"{whole.name} says nothing that {artifact.manifest.model.task} is judged by"}
            return {"accuracy": shares_on(session, spread(whole, MAX_IMAGES))}
        except UsageError as reason:
            return {"reason": str(reason)}


def shares_on(session: Session, found: LabelledData) -> dict[str, Any]:
    """``{images, top1, top5}`` of all images; UsageError where their labels are none of the artifact's."""
    manifest = session.artifact.manifest
    labels = class_indices(found, manifest.labels, manifest.class_count())
    top1, top5 = top_shares(logits_on(session, found), labels)
    return {"images": len(found), "top1": top1, "top5": top5}


def held_out(artifact: Artifact, source: str) -> LabelledData:
    """The part of ``source`` that was held out in training, where that is known, else all of it; UsageError for
    none."""
    recorded = artifact.manifest.accuracy or artifact.manifest.quality
    found = held_out_from(source, recorded.data, recorded.content) if recorded else held_out_from(source)
    if not len(found):
        raise UsageError(f"{source} holds no images", hint="use another --data")
    return found


def held_out_from(source: str, trained_on: str | None = None, content: Content | None = None) -> LabelledData:
    """Without what a model trained on ``trained_on`` has seen, where the source has a fixed part for that; the part
    that holds the recorded images, where they lie at another path, or alone."""
    fixed = has_own_split(source)
    first = open_data(source, split="held-out" if fixed or source == trained_on else "all")
    if content is None or fixed or _fit(first, content) == (len(content), -len(content)):
        return first
    other = open_data(source, split="all" if source == trained_on else "held-out")
    return max(first, other, key=lambda part: _fit(part, content))


def _fit(part: LabelledData, content: Content) -> tuple[int, int]:
    """The more of the recorded images, and the fewer others beside them, the larger."""
    judged = content_of(spread(part, IMAGES if len(content) == IMAGES else MAX_IMAGES))
    shared = content.shared(judged)
    return shared, -len(judged) if shared else 0


def logits_on(session: Session, found: LabelledData) -> Iterator[Array]:
    """(n, classes) of images after images, preprocessed as the artifact says, in its largest batches."""
    manifest = session.artifact.manifest
    logits, batch = manifest.logits_output(), manifest.batch.max
    for start in range(0, len(found), batch):
        rows = preprocessed(session.artifact, found.images[start : start + batch], cropped=found.cropped)
        yield run_rows(session, rows, batch)[logits.name if logits else ""]


def preprocessed(artifact: Artifact, pictures: Iterable[Array], *, cropped: bool = False) -> dict[str, Array]:
    """Images, or their crops, as the artifact's only input; UsageError where it takes anything else."""
    spec, preprocess = image_steps(artifact)
    steps = preprocess.after_crop() if cropped else preprocess
    return {spec.name: steps.batch(pictures).astype(spec.dtype, copy=False)}
