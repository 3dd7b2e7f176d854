"""Does an artifact compute what its model computes? Numpy only, so that a device can answer it too.

Docs: docs/explanation/verification.md says where the tolerance comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array, BatchRange, OutputParity, Parity
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed, UsageError
from edgevit.precisions import NOISE_FACTOR, error_of
from edgevit.proof.diagnosis import likeliest_cause
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import run_rows

# Times the noise: a margin is moved by the errors of both its classes, and an error on other images than those that the
# noise was measured on may be twice as large.
CLEAR = 4.0


@dataclass(frozen=True)
class Reference:
    """What the outputs are compared with: n rows of every input, and the outputs they must give.

    tolerance   bound on max abs error / max abs reference of every output
    noise       what the tolerance comes from, when known
    UsageError unless all arrays have the same rows, one or more, there is an output, and the tolerance is a number.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: float
    noise: float | None = None

    def __post_init__(self) -> None:
        counts = {len(array) if array.ndim else 0 for array in (*self.inputs.values(), *self.outputs.values())}
        if not self.inputs or not self.outputs or len(counts) != 1 or 0 in counts:
            raise UsageError("a reference needs inputs and outputs with the same number of rows, at least one")
        if not 0 < self.tolerance < float("inf"):
            raise UsageError(f"a tolerance must be a positive number, got {self.tolerance}")

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


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
        judged = Parity(status="failed", tolerance=reference.tolerance, noise=reference.noise, images=reference.rows)
        return judged.model_copy(update={"reason": str(exc), "runtime": session.runtime, "batches": tuple(batches)})
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
    figures: dict[str, OutputParity] = {}
    problems: list[str] = []
    for name, expected in reference.outputs.items():
        worst = _Worst(name, expected)
        for batch, got in found.items():
            worst.take(batch, got.get(name))
        problems += worst.judged(reference.tolerance)
        if not worst.meaningless:
            figures[name] = OutputParity(max_abs=worst.max_abs, max_rel=worst.max_rel, cosine=worst.cosine)
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
        images=reference.rows,
        batches=tuple(found),
        runtime=runtime,
        outputs=figures,
    )


class _Worst:
    """The largest differences of one output so far. ``meaningless`` holds what makes a comparison impossible."""

    def __init__(self, name: str, wanted: Array) -> None:
        self.name, self.wanted, self.expected = name, wanted, wanted.astype(np.float64)
        self.max_abs = self.max_rel = 0.0
        self.cosine = 1.0
        self.meaningless: list[str] = []
        if not np.isfinite(self.expected).all():
            self.meaningless.append(f"the reference of {name} itself holds NaN or infinity")

    def take(self, batch: int, got: Array | None) -> None:
        """Account for the outputs at one batch size."""
        if got is None:
            self.meaningless.append(f"there is no output {self.name}")
        elif got.shape != self.expected.shape:
            self.meaningless.append(f"{self.name} has shape {got.shape}, not {self.expected.shape}, at batch {batch}")
        elif not np.isfinite(got).all():
            self.meaningless.append(f"{self.name} holds NaN or infinity at batch {batch}")
        if self.meaningless or got is None:
            return
        exact = got.astype(np.float64)  # float16 outputs overflow when squared for the cosine
        self.max_abs = max(self.max_abs, float(np.abs(exact - self.expected).max(initial=0.0)))
        self.max_rel = max(self.max_rel, error_of(got, self.wanted))
        self.cosine = min(self.cosine, _cosine(exact, self.expected))

    def judged(self, tolerance: float) -> list[str]:
        """The problems of this output, as sentences."""
        if self.meaningless or self.max_rel <= tolerance:
            return self.meaningless
        if self.wanted.dtype.kind in "biu":
            return [f"{self.name} differs in {self.max_rel:.2%} of its values, tolerance {tolerance:.2%}"]
        return [f"{self.name} differs by {self.max_rel:.2g} of its largest value, tolerance {tolerance:.2g}"]


def _cosine(got: Array, expected: Array) -> float:
    """The lowest cosine similarity of any row; two zero rows are alike."""
    a, b = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # the divisor is made harmless where it is 0: np.where computes both sides
    alike = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), (a == b).all(axis=1) * 1.0)
    # rounding takes equal rows a hair above 1
    return float(np.clip(alike.min(initial=1.0), -1.0, 1.0))


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
    expected = reference.outputs[logits].astype(np.float64)
    if expected.ndim != 2 or expected.shape[1] < 2 or reference.outputs[logits].dtype.kind != "f":
        return _Top1(0, 0)
    ordered = np.sort(expected, axis=1)
    noise = max(reference.noise or 0.0, reference.tolerance / NOISE_FACTOR)
    clear = ordered[:, -1] - ordered[:, -2] > CLEAR * noise * np.abs(expected).max()
    top = expected.argmax(axis=1)
    # at every batch size: a class that is lost at one of them is lost
    same = np.all([got[logits].argmax(axis=1) == top for got in found.values()], axis=0)
    return _Top1(int(clear.sum()), int((same & clear).sum()))


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
        artifact, payload.get("runtime"), threads=payload["threads"], provider=payload.get("provider")
    ) as session:
        parity = compare(session, reference, payload["batches"])
    return parity.model_dump(mode="json")


def write_reference(path: Path, reference: Reference) -> None:
    """The .npz that ``compare_in_worker`` reads."""
    inputs = {f"in.{name}": array for name, array in reference.inputs.items()}
    outputs = {f"out.{name}": array for name, array in reference.outputs.items()}
    np.savez(path, **inputs, **outputs)  # type: ignore[arg-type]
