"""What a failed proof is called and what is next: the artifact is wrong, or rounding decides what its model answers."""

from __future__ import annotations

from pathlib import Path

from edgevit.artifact.manifest import Manifest, OutputBound, OutputParity, Parity
from edgevit.errors import ParityFailed
from edgevit.precisions import NOISE_FACTOR


def failure(manifest: Manifest, kept: Path) -> ParityFailed:
    """The error for an artifact whose proof failed and which was ``kept`` aside."""
    parity = manifest.parity
    found = "not a number" if parity.max_rel is None else f"{parity.max_rel:.2e}"
    cause = f" ({parity.reason})" if parity.reason else ""
    what = "cannot be proved" if beyond(parity, manifest.precision) else "does not compute its model"
    return ParityFailed(
        f"the artifact {what}: error {found}, tolerance {parity.tolerance:.2e}{cause}",
        hint=f"the folder is kept as {kept}; {_next_step(manifest)}",
    )


def beyond(parity: Parity, precision: str) -> str | None:
    """A sentence when the model itself, computed in that precision, is as far off as the artifact: rounding decides
    what it answers."""
    pairs = ((figure, parity.bounds.get(name)) for name, figure in parity.outputs.items())
    wrong = [(figure.max_rel, (bound and bound.noise) or 0.0) for figure, bound in pairs if _outside(figure, bound)]
    if not wrong or any(error > NOISE_FACTOR * noise for error, noise in wrong):
        return None
    return f"computed in {precision}, the model itself is {max(noise for _, noise in wrong):.2g} off"


def _outside(figure: OutputParity, bound: OutputBound | None) -> bool:
    if bound is None:
        return False
    return figure.max_rel > (0.0 if bound.decided and figure.changed is not None else bound.tolerance)


def _next_step(manifest: Manifest) -> str:
    if manifest.precision != "fp32":
        return "try --precision fp32, and report the model if that fails too"
    if beyond(manifest.parity, manifest.precision):
        return "rounding decides what this model answers: load trained weights, or take out what cancels or underflows"
    return f"{manifest.target} computes an operator of this model otherwise: report the model, or try another target"
