"""An artifact on labelled images: what it answers, for its accuracy beside its parity and beside its latency."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.data.classes import class_indices
from edgevit.data.labelled import LabelledData
from edgevit.data.source import open_data
from edgevit.errors import UsageError
from edgevit.proof.accuracy import spread, top_shares
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.feeds import image_steps
from edgevit.runtimes.rows import run_rows

MAX_IMAGES = 2000  # as many as the accuracy recorded at export was measured on, spread over the data in the same way


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: ``{images, top1, top5}`` of ``payload["artifact"]`` on ``payload["data"]``, or ``{reason}``
    where it has no accuracy there. Raises what ``open_session`` raises."""
    artifact = Artifact.open(payload["artifact"])
    try:
        found = spread(held_out(artifact, payload["data"]), MAX_IMAGES)
        if artifact.manifest.logits_output() is None:
            return {"reason": f"{artifact.path} is not a classifier"}
        labels = class_indices(found, artifact.manifest.labels, artifact.manifest.class_count())
    except UsageError as reason:
        return {"reason": str(reason)}
    opening = {key: payload[key] for key in ("threads", "provider", "trust", "options")}
    with open_session(artifact, payload["runtime"], **opening) as session:
        top1, top5 = top_shares(logits_on(session, found), labels)
    return {"images": len(labels), "top1": top1, "top5": top5}


def held_out(artifact: Artifact, source: str) -> LabelledData:
    """The part of ``source`` that was held out in training, where that is known, else all of it; UsageError for
    none."""
    recorded = artifact.manifest.accuracy
    found = held_out_from(source, recorded.data if recorded else None)
    if not len(found):
        raise UsageError(f"{source} holds no images", hint="use another --data")
    return found


def held_out_from(source: str, trained_on: str | None) -> LabelledData:
    """Without what a model trained on ``trained_on`` has seen, where the source has a fixed part for that."""
    fixed = source.partition(":")[0] in ("digits", "cifar10", "cifar100")
    return open_data(source, split="held-out" if fixed or source == trained_on else "all")


def logits_on(session: Session, found: LabelledData) -> Array:
    """(N, classes) of all images, preprocessed as the artifact says, in its largest batches."""
    manifest = session.artifact.manifest
    logits, batch = manifest.logits_output(), manifest.batch.max
    step = max(64 // batch, 1) * batch
    parts = []
    for start in range(0, len(found), step):
        rows = preprocessed(session.artifact, list(found.images[start : start + step]), cropped=found.cropped)
        parts.append(run_rows(session, rows, batch)[logits.name if logits else ""])
    return np.concatenate(parts)


def preprocessed(artifact: Artifact, pictures: list[Array], *, cropped: bool = False) -> dict[str, Array]:
    """Images, or their crops, as the artifact's only input; UsageError where it takes anything else."""
    spec, preprocess = image_steps(artifact)
    steps = preprocess.after_crop() if cropped else preprocess
    return {spec.name: steps.batch(pictures).astype(spec.dtype, copy=False)}
