"""How far one output lies from its reference, over all rows and batch sizes."""

from __future__ import annotations

import numpy as np

from edgevit.artifact.manifest import Array, OutputBound, OutputParity
from edgevit.precisions import error_of, whole_numbers


class Differences:
    """The largest differences of one output so far. ``meaningless`` holds what makes a comparison impossible.

    clear  which values must agree, True where no noise explains another one away; None: all of them
    """

    def __init__(self, name: str, wanted: Array, bound: OutputBound, clear: Array | None = None) -> None:
        self.name, self.wanted, self.bound = name, wanted, bound
        self.expected = wanted.astype(np.float64)
        self.clear = clear
        self.discrete = wanted.dtype.kind in "biu" or (clear is not None and whole_numbers(wanted))
        self.max_abs = self.max_rel = 0.0
        self.cosine = 1.0
        self.changed = np.zeros(len(wanted) if wanted.ndim else 0, np.int64)  # per row, at the worst batch size
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
        self.max_rel = max(self.max_rel, self._error(got))
        self.cosine = min(self.cosine, _cosine(exact, self.expected))
        if self.discrete:
            other = (got != self.wanted).reshape(len(got), -1).sum(axis=1)
            self.changed = np.maximum(self.changed, other)

    def _error(self, got: Array) -> float:
        # whole numbers are judged as such, whatever type holds them
        return error_of(got, self.wanted.astype(np.int64) if self.discrete else self.wanted, self.clear)

    def problems(self) -> list[str]:
        """What is wrong with this output, as sentences."""
        if self.meaningless or self.max_rel <= self._allowed():
            return self.meaningless
        if not self.discrete:
            return [
                f"{self.name} differs by {self.max_rel:.2g} of its largest value, tolerance {self.bound.tolerance:.2g}"
            ]
        if self.clear is None:
            return [f"{self.name} differs in {self.max_rel:.2%} of its values, tolerance {self.bound.tolerance:.2%}"]
        count = int(self.clear.sum())
        return [f"{self.name} differs in {round(self.max_rel * count):,} of {count:,} values that are clear of noise"]

    def _allowed(self) -> float:
        return 0.0 if self.discrete and self.clear is not None else self.bound.tolerance

    def figures(self) -> OutputParity:
        """The record of this output."""
        clear = None if self.clear is None else float(self.clear.mean()) if self.clear.size else 1.0
        changed = float(self.changed.sum() / max(1, self.wanted.size)) if self.discrete else None
        return OutputParity(
            max_abs=self.max_abs, max_rel=self.max_rel, cosine=self.cosine, clear=clear, changed=changed
        )


def _cosine(got: Array, expected: Array) -> float:
    """The lowest cosine similarity of any row; two zero rows are alike."""
    a, b = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # the divisor is made harmless where it is 0: np.where computes both sides
    alike = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), (a == b).all(axis=1) * 1.0)
    # rounding takes equal rows a hair above 1
    return float(np.clip(alike.min(initial=1.0), -1.0, 1.0))
