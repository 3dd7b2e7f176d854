"""Does an artifact compute what its model computes? Numpy only, so that a device can answer it too.

Docs: docs/explanation/verification.md says where the tolerance comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array, BatchRange, OutputBound, OutputParity, Parity
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed
from edgevit.precisions import NOISE_FACTOR, clear_of_noise
from edgevit.proof.diagnosis import likeliest_cause
from edgevit.proof.differences import Differences
from edgevit.proof.ranked import matched, ranks_of
from edgevit.proof.reference import Reference, read_reference
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import run_rows


def batches_to_prove(batch: BatchRange) -> tuple[int, ...]:
    """Both ends and an odd size between them: a graph may hold the traced size without saying so."""
    # a reshape that holds a batch size is right by chance at its multiples, and shows at an odd size
    odd = next((size for size in range(batch.min + 1, batch.max) if size % 2), batch.max)
    return tuple(sorted({batch.min, odd, batch.max}))


def compare(session: Session, reference: Reference, batches: Sequence[int]) -> Parity:
    """Run every row at every batch size and judge. A failure's ``reason`` has the numbers and the likeliest cause."""
    try:
        found = {batch: run_rows(session, reference.inputs, batch) for batch in batches}
    except ParityFailed as exc:
        return Parity(
            status="failed",
            reason=str(exc),
            tolerance=reference.tolerance,
            noise=reference.noise,
            bounds=dict(reference.bounds),
            images=reference.rows,
            batches=tuple(batches),
            runtime=session.runtime,
        )
    logits = session.artifact.manifest.logits_output()
    parity = judge(found, reference, logits.name if logits else None, session.runtime)
    if parity.status != "failed":
        return parity
    cause = _by_batch(found, reference) or likeliest_cause(
        lambda inputs: run_rows(session, inputs, batches[0]),
        reference.inputs,
        reference.outputs,
        session.artifact.manifest,
        parity.tolerance,
    )
    return parity.model_copy(update={"reason": f"{parity.reason}; {cause}"}) if cause else parity


def _by_batch(found: Mapping[int, Mapping[str, Array]], reference: Reference) -> str | None:
    """A sentence when some batch sizes are right and others are not."""
    right = {batch: judge({batch: got}, reference, None, "").status == "verified" for batch, got in found.items()}
    if all(right.values()) or not any(right.values()):
        return None
    good, bad = (", ".join(str(size) for size, fine in right.items() if fine is wanted) for wanted in (True, False))
    return f"right at batch {good}, wrong at batch {bad}: the graph holds a fixed batch size somewhere"


def judge(found: Mapping[int, Mapping[str, Array]], reference: Reference, logits: str | None, runtime: str) -> Parity:
    """The verdict on outputs already computed, by batch size. The worst batch size of every output counts.

    Figures that would be NaN or infinite are left out; ``reason`` says why.
    """
    found, ranked = _in_order(found, reference)
    figures: dict[str, OutputParity] = {}
    problems: list[str] = []
    for name, expected in reference.outputs.items():
        clear = None if name in ranked else reference.clear.get(name)  # ranks were matched, and need no excuse
        worst = Differences(name, expected, reference.bound(name), clear)
        for batch, got in found.items():
            worst.take(batch, got.get(name))
        problems += worst.problems()
        if not worst.meaningless:
            figures[name] = worst.figures().model_copy(update=ranked.get(name, {}))
    whole = len(figures) == len(reference.outputs)
    top1 = None
    if logits in figures:
        top1 = _top1(found, reference, str(logits))
        problems += top1.problems()
    return Parity(
        status="failed" if problems else "verified",
        reason="; ".join(dict.fromkeys(problems)) or None,
        max_abs=max(figure.max_abs for figure in figures.values()) if whole else None,
        max_rel=max(figure.max_rel for figure in figures.values()) if whole else None,
        cosine=min(figure.cosine for figure in figures.values()) if whole else None,
        top1_agreement=top1.agreement if top1 else None,
        top1_rows=top1.clear if top1 else None,
        tolerance=reference.tolerance,
        noise=reference.noise,
        bounds=dict(reference.bounds),
        images=reference.rows,
        batches=tuple(found),
        runtime=runtime,
        outputs=figures,
    )


def _in_order(
    found: Mapping[int, Mapping[str, Array]], reference: Reference
) -> tuple[Mapping[int, Mapping[str, Array]], dict[str, dict[str, float]]]:
    """The outputs with their ranks in the reference's order, and by output how many of these were clear, or moved."""
    ranks = ranks_of(reference.outputs)
    sorted_out = {batch: matched(got, reference, ranks) for batch, got in found.items()} if ranks else {}
    done = {batch: one for batch, one in sorted_out.items() if one is not None}
    if ranks is None or not done:
        return found, {}
    shares = {
        "clear": min(float(one.clear.mean()) for one in done.values()),
        "changed": max(float(one.moved.mean()) for one in done.values()),
    }
    ordered = {batch: done[batch].outputs if batch in done else got for batch, got in found.items()}
    return ordered, dict.fromkeys(ranks.members, shares)


@dataclass(frozen=True)
class _Top1:
    """``clear`` rows have a margin that no noise explains away; ``kept`` of these kept their top class."""

    clear: int
    kept: int

    @property
    def agreement(self) -> float:
        return self.kept / self.clear if self.clear else 1.0

    def problems(self) -> list[str]:
        lost = self.clear - self.kept
        return [f"the top class changed in {lost} of {self.clear} rows whose margin is clear of noise"] if lost else []


def _top1(found: Mapping[int, Mapping[str, Array]], reference: Reference, logits: str) -> _Top1:
    """Rows whose margin between the first and second class exceeds ``CLEAR`` × noise must keep their first class.

    The tolerance is ten times the noise, so that an error within it could still turn such a row.
    """
    expected, bound = reference.outputs[logits].astype(np.float64), reference.bound(logits)
    if expected.ndim != 2 or expected.shape[1] < 2 or reference.outputs[logits].dtype.kind != "f":
        return _Top1(0, 0)
    ordered = np.sort(expected, axis=1)
    margins = (ordered[:, -1] - ordered[:, -2]) / (np.abs(expected).max() or 1.0)
    clear = clear_of_noise(margins, max(bound.noise or 0.0, bound.tolerance / NOISE_FACTOR))
    top = expected.argmax(axis=1)
    # at every batch size: a class that is lost at one of them is lost
    same = np.all([got[logits].argmax(axis=1) == top for got in found.values()], axis=0)
    return _Top1(int(clear.sum()), int((same & clear).sum()))


def compare_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. ``payload``: artifact, runtime, threads, provider, reference (what ``write_reference``
    wrote), tolerance, noise, bounds, batches. Returns a Parity as JSON."""
    bounds = {name: OutputBound.model_validate(bound) for name, bound in payload["bounds"].items()}
    reference = read_reference(Path(payload["reference"]), payload["tolerance"], payload["noise"], bounds)
    artifact = Artifact.open(payload["artifact"])
    with open_session(
        artifact, payload.get("runtime"), threads=payload["threads"], provider=payload.get("provider")
    ) as session:
        parity = compare(session, reference, payload["batches"])
    return parity.model_dump(mode="json")
