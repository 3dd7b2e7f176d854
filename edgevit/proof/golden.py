"""The golden pair in a session that is open: does this machine compute what the model computes?"""

from __future__ import annotations

from edgevit.artifact.golden import GOLDEN, GOLDEN_ROWS
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, ParityFailed
from edgevit.proof.claims import contradiction
from edgevit.proof.parity import compare
from edgevit.proof.reference import Reference
from edgevit.runtimes.base import Session


def golden_reference(artifact: Artifact) -> Reference:
    """The stored rows, and how far outputs may lie from them; BadArtifact unless they are ``GOLDEN_ROWS``."""
    inputs, outputs = artifact.golden()
    parity = artifact.manifest.parity
    samples = artifact.golden_samples()
    kept = {name: one.values for name, one in samples.items()}
    for name, array in {**inputs, **outputs, **kept}.items():
        if len(array) != GOLDEN_ROWS:
            raise BadArtifact(
                f"{GOLDEN} in {artifact.path} does not hold {GOLDEN_ROWS} rows of {name}", hint="export anew"
            )
    clear = artifact.golden_clear()
    return Reference(inputs, outputs, parity.tolerance, parity.noise, parity.bounds, clear, samples)


def require_believable(artifact: Artifact) -> None:
    """BadArtifact for a manifest that says what cannot be true, its tolerance among it."""
    if found := contradiction(artifact.manifest):
        raise BadArtifact(f"{MANIFEST} in {artifact.path} {found}", hint="export anew")


def require_proof(session: Session) -> None:
    """ParityFailed unless the session gives the golden outputs, in its smallest batch: whoever serves answers asks this
    first. BadArtifact for a manifest that was altered or cannot be believed."""
    artifact = session.artifact
    artifact.check_seal()
    require_believable(artifact)
    found = compare(session, golden_reference(artifact), [artifact.manifest.batch.min])
    if found.status == "failed":
        raise ParityFailed(
            f"{artifact.path} does not compute its model here: {found.reason}",
            hint=f"edgevit verify {artifact.path} says more; export it anew",
        )
