"""The proof of an artifact on one runtime, with its accuracy where there are labelled images."""

from __future__ import annotations

from typing import Any

from edgevit.artifact.opened import Artifact
from edgevit.benchmark.job import BenchmarkJob
from edgevit.errors import MissingDependency, UsageError
from edgevit.proof.verify import Verification, verify


def proved(proof: Verification) -> dict[str, Any]:
    """``parity`` and ``accuracy`` of a row."""
    accuracy = proof.accuracy.model_dump(mode="json") if proof.accuracy else None
    return {"parity": proof.parity.record(), "accuracy": accuracy}


def verified(job: BenchmarkJob, artifact: Artifact, runtime: str) -> tuple[Verification, tuple[str, ...]]:
    """The golden pair and the accuracy on this runtime: on --data, else on what was recorded at export, where that can
    still be opened."""
    recorded = artifact.manifest.accuracy.data if artifact.manifest.accuracy else None
    options: dict[str, Any] = {"runtime": runtime, "threads": job.export.threads, "provider": job.provider}
    if job.export.data is not None or recorded is None:
        return verify(artifact.path, data=job.export.data, **options), ()
    try:
        return verify(artifact.path, data=recorded, **options), ()
    except (UsageError, MissingDependency) as error:
        note = f"accuracy on {recorded} was not measured: {error}"
        return verify(artifact.path, **options), (note,)
