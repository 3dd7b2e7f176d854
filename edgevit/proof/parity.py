"""Does an artifact compute what its model computes? Numpy only, so that a device can answer it too.

Docs: docs/explanation/verification.md says where the tolerance comes from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array, BatchRange, OutputBound, OutputParity, Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.sampling import sampled
from edgevit.errors import ParityFailed
from edgevit.precisions import NOISE_FACTOR, clear_of_noise, scale_of
from edgevit.proof.diagnosis import likeliest_cause
from edgevit.proof.differences import UNSOUND, Differences, undecided
from edgevit.proof.failure import beyond
from edgevit.proof.layerwise import with_layers
from edgevit.proof.ranked import matching_of
from edgevit.proof.reference import Reference, read_reference
from edgevit.proof.thinning import expected, thinned
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import rows_in_turn


def batches_to_prove(batch: BatchRange) -> tuple[int, ...]:
    """Both ends and an odd size between them: a graph may hold the traced size without saying so."""
    # a reshape that holds a batch size is right by chance at its multiples, and shows at an odd size
    odd = next((size for size in range(batch.min + 1, batch.max) if size % 2), batch.max)
    return tuple(sorted({batch.min, odd, batch.max}))


def compare(session: Session, reference: Reference, batches: Sequence[int]) -> Parity:
    """Run every row at every batch size and judge. A failure's ``reason`` has the numbers and the likeliest cause."""
    logits = session.artifact.manifest.logits_output()
    judge = Judge(reference, logits.name if logits else None, session.runtime)
    try:
        for batch in batches:
            for first, outputs in rows_in_turn(session, reference.inputs, batch):
                judge.take(batch, first, outputs)
    except ParityFailed as exc:
        return judge.impossible(str(exc), batches)
    parity = judge.verdict()
    if parity.status != "failed":
        return parity
    cause = (
        judge.by_batch()
        or beyond(parity, session.artifact.manifest.precision)
        or likeliest_cause(
            lambda inputs: thinned(rows_in_turn(session, inputs, batches[0]), reference),
            reference.inputs,
            expected(reference),
            session.artifact.manifest,
            parity.tolerance,
        )
    )
    return parity.model_copy(update={"reason": f"{parity.reason}; {cause}"}) if cause else parity


def judge(found: Mapping[int, Mapping[str, Array]], reference: Reference, logits: str | None, runtime: str) -> Parity:
    """The verdict on outputs already computed, by batch size. The worst batch size of every output counts."""
    made = Judge(reference, logits, runtime)
    for batch, outputs in found.items():
        made.take(batch, 0, outputs)
    return made.verdict()


class Judge:
    """Is given an artifact's outputs as they come, some rows at a time, and holds none of them.

    Figures that would be NaN or infinite are left out; ``reason`` says why.
    """

    def __init__(self, reference: Reference, logits: str | None, runtime: str) -> None:
        self.reference, self.runtime = reference, runtime
        self.matching = matching_of(reference)
        self.top1 = Top1.of(reference, logits) if logits in reference.outputs else None
        self.found: dict[int, dict[str, Differences]] = {}

    def take(self, batch: int, first: int, outputs: Mapping[str, Array]) -> None:
        """The outputs of the rows from ``first`` on, run in groups of ``batch``."""
        found = self.found.setdefault(batch, {name: self._differences(name) for name in self.reference.known})
        for name, one in found.items():
            one.meaningless += self._wrong(name, batch, outputs.get(name))
        for index in range(max((len(value) for value in outputs.values() if value.ndim), default=0)):
            rows = {name: outputs[name][index] for name, one in found.items() if not one.meaningless}
            self._row(batch, first + index, rows)
        if self.top1 and not found[self.top1.name].meaningless:
            self.top1.take(first, outputs[self.top1.name])

    def _wrong(self, name: str, batch: int, got: Array | None) -> list[str]:
        if got is None:
            return [f"there is no output {name}"]
        due = (len(got) if got.ndim else 1, *self.reference.shape(name))
        if got.shape != due:
            return [f"{name} has shape {got.shape}, not {due}, at batch {batch}"]
        if np.isfinite(got).all():
            return []
        sound = all(np.isfinite(row).all() for row in self.reference.known[name])
        return [f"{name} holds NaN or infinity at batch {batch}" if sound else UNSOUND.format(name)]

    def _differences(self, name: str) -> Differences:
        # ranks are matched, and need no other excuse
        marked = name in self.reference.clear and not self._ranked(name)
        scale = self.reference.scale(name) if marked else 1.0
        return Differences(name, self.reference.bound(name), marked, scale)

    def _ranked(self, name: str) -> bool:
        return self.matching is not None and name in self.matching.ranks.members

    def _row(self, batch: int, row: int, outputs: Mapping[str, Array]) -> None:
        samples, known = self.reference.samples, self.reference.known
        got = {
            name: sampled(value, samples[name].sample) if name in samples else value for name, value in outputs.items()
        }
        want = {name: known[name][row] for name in got}
        clear = {name: rows[row] for name, rows in self.reference.clear.items()}
        ordered = got if self.matching is None else self.matching.matched(batch, row, got, want, clear)
        for name, value in ordered.items():
            one = self.found[batch][name]
            one.take(row, value, want[name], clear[name] if one.marked else None)
            if name in samples:
                one.rest(outputs[name], samples[name], row)

    def verdict(self, batches: Collection[int] = ()) -> Parity:
        """The worst of the given batch sizes, or of all."""
        merged: dict[str, Differences] = {}
        for batch in batches or self.found:
            for name, one in self.found[batch].items():
                merged[name] = merged[name].worse(one) if name in merged else one
        figures = {name: self._figures(one) for name, one in merged.items() if not one.meaningless}
        doubts = [doubt for name, figure in figures.items() if (doubt := undecided(name, figure))]
        whole = len(figures) == len(merged) and not doubts
        top1 = self.top1 if self.top1 and self.top1.name in figures else None
        problems = [
            *(problem for one in merged.values() for problem in one.problems()),
            *(top1.problems() if top1 else []),
        ]
        return self._parity(problems, doubts, batches or self.found).model_copy(
            update={
                "max_abs": max(figure.max_abs for figure in figures.values()) if whole else None,
                "max_rel": max(figure.max_rel for figure in figures.values()) if whole else None,
                "cosine": min(figure.cosine for figure in figures.values()) if whole else None,
                "top1_agreement": top1.agreement if top1 else None,
                "top1_rows": top1.rows if top1 else None,
                "outputs": figures,
            }
        )

    def _figures(self, one: Differences) -> OutputParity:
        shares = self.matching.shares() if self.matching and self._ranked(one.name) else {}
        return one.figures().model_copy(update=shares)

    def _parity(self, problems: Sequence[str], doubts: Sequence[str], batches: Iterable[int]) -> Parity:
        reference = self.reference
        return Parity(
            status="failed" if problems else "unverified" if doubts else "verified",
            reason="; ".join(dict.fromkeys(problems or doubts)) or None,
            tolerance=reference.tolerance,
            noise=reference.noise,
            bounds=dict(reference.bounds),
            images=reference.rows,
            batches=tuple(batches),
            runtime=self.runtime,
        )

    def impossible(self, why: str, batches: Sequence[int]) -> Parity:
        """The verdict on outputs that cannot be compared."""
        return self._parity([why], [], batches)

    def by_batch(self) -> str | None:
        """A sentence when some batch sizes are right and others are not."""
        right = {batch: self.verdict([batch]).status != "failed" for batch in self.found}
        if all(right.values()) or not any(right.values()):
            return None
        good, bad = (", ".join(str(size) for size, fine in right.items() if fine is wanted) for wanted in (True, False))
        return f"right at batch {good}, wrong at batch {bad}: the graph holds a fixed batch size somewhere"


@dataclass
class Top1:
    """Rows whose margin between the first and second class exceeds ``CLEAR`` × noise must keep their first class.

    The tolerance is ten times the noise, so that an error within it could still turn such a row.

    clear  by row, whether its margin is clear
    top    by row, the reference's class
    same   by row, whether it was kept so far: a class that is lost at one batch size is lost
    """

    name: str
    clear: Array
    top: Array
    same: Array

    @classmethod
    def of(cls, reference: Reference, name: str | None) -> Top1:
        rows, bound = np.asarray(reference.outputs[str(name)]), reference.bound(str(name))
        exact = rows.astype(np.float64)
        if rows.ndim != 2 or rows.shape[1] < 2 or rows.dtype.kind != "f" or not np.isfinite(exact).all():
            return cls(str(name), *(np.zeros(len(rows), kind) for kind in (bool, np.int64, bool)))
        ordered = np.sort(exact, axis=1)
        margins = (ordered[:, -1] - ordered[:, -2]) / scale_of(float(np.abs(exact).max()))
        clear = clear_of_noise(margins, max(bound.noise or 0.0, bound.tolerance / NOISE_FACTOR))
        for row, marks in enumerate(reference.clear.get(str(name), ())):
            clear[row] &= bool(np.all(marks))
        return cls(str(name), clear, exact.argmax(axis=1), np.ones(len(rows), bool))

    def take(self, first: int, logits: Array) -> None:
        if self.clear.any():
            self.same[first : first + len(logits)] &= logits.argmax(axis=1) == self.top[first : first + len(logits)]

    @property
    def rows(self) -> int:
        return int(self.clear.sum())

    @property
    def agreement(self) -> float:
        return int((self.same & self.clear).sum()) / self.rows if self.rows else 1.0

    def problems(self) -> list[str]:
        lost = int((self.clear & ~self.same).sum())
        return [f"the top class changed in {lost} of {self.rows} rows whose margin is clear of noise"] if lost else []


def compare_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target. ``payload``: artifact, runtime, threads, provider, reference (what ``write_reference``
    wrote), tolerance, noise, bounds, batches, layers (what each that is of integers is given, and makes of it). Returns
    a Parity as JSON."""
    bounds = {name: OutputBound.model_validate(bound) for name, bound in payload["bounds"].items()}
    reference = read_reference(Path(payload["reference"]), payload["tolerance"], payload["noise"], bounds)
    artifact = Artifact.open(payload["artifact"])
    with open_session(
        artifact, payload.get("runtime"), threads=payload["threads"], provider=payload.get("provider")
    ) as session:
        parity = compare(session, reference, payload["batches"])
        if payload.get("layers") and parity.status == "verified":
            parity = with_layers(session, Path(payload["layers"]), parity)
    return parity.model_dump(mode="json")
