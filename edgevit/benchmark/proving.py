"""The proof of an artifact on one runtime, with how good its answers are where data says what is true."""

from __future__ import annotations

from typing import Any

from edgevit.artifact.opened import Artifact
from edgevit.benchmark.job import BenchmarkJob
from edgevit.errors import MissingDependency, UsageError
from edgevit.proof.verify import Verification, verify


def proved(proof: Verification) -> dict[str, Any]:
    """``parity``, ``accuracy`` and ``quality`` of a row."""
    return {"parity": proof.parity.record(), "accuracy": proof.accuracy, "quality": proof.quality}


def verified(job: BenchmarkJob, artifact: Artifact, runtime: str) -> tuple[Verification, tuple[str, ...]]:
    """The golden pair, and how good the answers are on this runtime: on --data, else on what was recorded at export,
    where that can still be opened."""
    good = artifact.manifest.how_good()
    recorded = good.data if good else None
    options: dict[str, Any] = {"runtime": runtime, "threads": job.export.threads, "provider": job.provider}
    if job.export.data is not None or recorded is None:
        return verify(artifact.path, data=job.export.data, **options), ()
    try:
        return verify(artifact.path, data=recorded, **options), ()
    except (UsageError, MissingDependency) as error:
        note = f"quality on {recorded} was not measured: {error}"
        return verify(artifact.path, **options), (note,)
