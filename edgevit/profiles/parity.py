"""Does an artifact compute what its model computes? Numpy only, so that a device can answer it too.

Docs: docs/explanation/verification.md says where the tolerance comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact import Array, Artifact, BatchRange, OutputParity, Parity
from edgevit.profiles.diagnosis import likeliest_cause
from edgevit.runtimes.base import Session, open_session

FLOOR = 1e-5  # below it, float32 sums in another order already differ
CEILINGS = {"fp32": 1e-3, "fp16": 2e-2}
NOISE_FACTOR = 10.0


def tolerance_for(noise: float, precision: str) -> float:
    """The bound on max abs error / max abs reference: 10 × the eager model's own noise, within the precision's limits.

    A precision without a ceiling of its own gets fp16's.
    """
    ceiling = CEILINGS.get(precision, CEILINGS["fp16"])
    return float(min(max(NOISE_FACTOR * noise, FLOOR), ceiling)) if np.isfinite(noise) else ceiling


@dataclass(frozen=True)
class Reference:
    """What the outputs are compared with: n rows of every input, and the outputs they must give.

    tolerance   bound on max abs error / max abs reference of every output
    noise       what the tolerance comes from, when known
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: float
    noise: float | None = None

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


def batches_to_prove(batch: BatchRange) -> tuple[int, ...]:
    """Both ends and an odd size between them: a graph may hold the traced size without saying so."""
    odd = min(3, batch.max) if batch.min <= 3 else batch.min | 1
    return tuple(sorted({batch.min, min(odd, batch.max), batch.max}))


def run_rows(session: Session, inputs: Mapping[str, Array], batch: int) -> dict[str, Array]:
    """Outputs of all rows, ``batch`` at a time; the last call is filled up with the first rows again."""
    parts = [session.infer(feed) for feed in _chunks(inputs, batch)]
    rows = len(next(iter(inputs.values())))
    return {spec.name: np.concatenate([part[spec.name] for part in parts])[:rows] for spec in session.outputs}


def _chunks(inputs: Mapping[str, Array], batch: int) -> Iterator[dict[str, Array]]:
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, batch):
        picks = np.arange(start, start + batch) % rows
        yield {name: np.ascontiguousarray(array[picks]) for name, array in inputs.items()}


def compare(session: Session, reference: Reference, batches: Sequence[int]) -> Parity:
    """Run every row at every batch size and judge. A failure's ``reason`` has the numbers and the likeliest cause."""
    found = {batch: run_rows(session, reference.inputs, batch) for batch in batches}
    logits = session.artifact.manifest.logits_output()
    parity = judge(found, reference, logits.name if logits else None, session.runtime)
    if parity.status != "failed":
        return parity
    cause = likeliest_cause(
        lambda inputs: run_rows(session, inputs, batches[0]),
        reference.inputs,
        reference.outputs,
        session.artifact.manifest,
        parity.tolerance,
    )
    return parity.model_copy(update={"reason": f"{parity.reason}; {cause}"}) if cause else parity


def judge(found: Mapping[int, Mapping[str, Array]], reference: Reference, logits: str | None, runtime: str) -> Parity:
    """The verdict on outputs already computed, by batch size. The worst batch size of every output counts."""
    outputs: dict[str, OutputParity] = {}
    problems: list[str] = []
    for name, expected in reference.outputs.items():
        worst = _Worst()
        for batch, got in found.items():
            problems += worst.take(name, batch, got[name], expected)
        outputs[name] = worst.figures()
        if worst.max_rel > reference.tolerance:
            problems.append(
                f"{name} differs by {worst.max_rel:.2g} of its largest value, tolerance {reference.tolerance:.2g}"
            )
    agreement = None
    if logits is not None and not any("NaN" in problem or "shape" in problem for problem in problems):
        agreement, changed = _top1(found, reference, logits)
        if changed:
            problems.append(f"the top class of {changed} rows changed where the reference's margin is clear")
    return Parity(
        status="failed" if problems else "verified",
        reason="; ".join(dict.fromkeys(problems)) or None,
        max_abs=_finite(max((figure.max_abs for figure in outputs.values()), default=0.0)),
        max_rel=_finite(max((figure.max_rel for figure in outputs.values()), default=0.0)),
        cosine=min((figure.cosine for figure in outputs.values()), default=1.0),
        top1_agreement=agreement,
        tolerance=reference.tolerance,
        noise=reference.noise,
        images=reference.rows,
        batches=tuple(found),
        runtime=runtime,
        outputs=outputs,
    )


_HUGE = 1e300  # stands for infinity, which JSON cannot carry


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else _HUGE


class _Worst:
    """The largest differences of one output so far."""

    def __init__(self) -> None:
        self.max_abs = self.max_rel = 0.0
        self.cosine = 1.0

    def take(self, name: str, batch: int, got: Array, expected: Array) -> list[str]:
        """Account for one batch size; what makes the comparison meaningless is returned as sentences."""
        if got.shape != expected.shape:
            self.max_abs = self.max_rel = float("inf")
            self.cosine = -1.0
            return [f"{name} has shape {got.shape}, not {expected.shape}, at batch {batch}"]
        got = got.astype(np.float64)
        if not np.isfinite(got).all():
            self.max_abs = self.max_rel = float("inf")
            self.cosine = -1.0
            return [f"{name} holds NaN or infinity at batch {batch}"]
        error = float(np.abs(got - expected).max(initial=0.0))
        scale = float(np.abs(expected).max(initial=0.0))
        self.max_abs = max(self.max_abs, error)
        self.max_rel = max(self.max_rel, error / scale if scale else (0.0 if error == 0 else float("inf")))
        self.cosine = min(self.cosine, _cosine(got, expected))
        return []

    def figures(self) -> OutputParity:
        return OutputParity(max_abs=_finite(self.max_abs), max_rel=_finite(self.max_rel), cosine=self.cosine)


def _cosine(got: Array, expected: Array) -> float:
    """The lowest cosine similarity of any row; two zero rows are alike."""
    a, b = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alike = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), (a == b).all(axis=1) * 1.0)
    return float(np.clip(alike.min(initial=1.0), -1.0, 1.0))


def _top1(found: Mapping[int, Mapping[str, Array]], reference: Reference, logits: str) -> tuple[float, int]:
    """(share of rows with the reference's top class, rows that lost it although the margin exceeds 2 × tolerance)."""
    expected = reference.outputs[logits]
    if expected.ndim != 2 or expected.shape[1] < 2:
        return 1.0, 0
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * reference.tolerance * np.abs(expected).max()
    top = expected.argmax(axis=1)
    same = np.all([got[logits].argmax(axis=1) == top for got in found.values()], axis=0)
    return float(same.mean()), int((~same & clear).sum())


def compare_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. ``payload``: artifact, runtime, threads, provider, reference (an .npz of ``in.NAME`` and
    ``out.NAME`` arrays), tolerance, noise, batches. Returns a Parity as JSON."""
    with np.load(Path(payload["reference"]), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    reference = Reference(
        {name[3:]: array for name, array in arrays.items() if name.startswith("in.")},
        {name[4:]: array for name, array in arrays.items() if name.startswith("out.")},
        payload["tolerance"],
        payload["noise"],
    )
    artifact = Artifact.open(payload["artifact"])
    with open_session(
        artifact, payload.get("runtime"), threads=payload.get("threads"), provider=payload.get("provider")
    ) as session:
        parity = compare(session, reference, payload["batches"])
    return parity.model_dump(mode="json")


def write_reference(path: Path, reference: Reference) -> None:
    """The .npz that ``compare_in_worker`` reads."""
    inputs = {f"in.{name}": array for name, array in reference.inputs.items()}
    outputs = {f"out.{name}": array for name, array in reference.outputs.items()}
    np.savez(path, **inputs, **outputs)  # type: ignore[arg-type]
