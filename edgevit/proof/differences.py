"""How far one output lies from its reference, over all rows at one batch size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from edgevit.artifact.manifest import Array, OutputBound, OutputParity
from edgevit.artifact.sampling import Sampled, further_off, miscounted
from edgevit.precisions import MEDIAN_ROWS, Errors, in_blocks, whole_numbers

PROVING = 0.1  # of an output must be clear of noise where any of the rest differs: less would prove nothing
UNSOUND = "the reference of {} itself holds NaN or infinity"


@dataclass
class Differences:
    """The largest differences of one output so far. ``meaningless`` holds what makes a comparison impossible.

    marked   whether some values may differ: those that are not clear
    scale    the largest magnitude of the reference
    whole    whether all values of the reference are whole numbers: labels, masks, counts
    sum      over all rows; of values that are clear
    changed  by row, how many values differ, clear or not
    rows     by row, the largest |got - want|
    values   of the reference so far, and how many of them are clear
    turned   how many that are not clear differ by more than noise
    """

    name: str
    bound: OutputBound
    marked: bool
    scale: float = 1.0
    whole: bool = True
    integer: bool = False
    sum: Errors = field(default_factory=Errors)
    max_abs: float = 0.0
    cosine: float = 1.0
    changed: dict[int, int] = field(default_factory=dict)
    rows: dict[int, float] = field(default_factory=dict)
    values: int = 0
    clear: int = 0
    turned: int = 0
    meaningless: list[str] = field(default_factory=list)

    def take(self, row: int, got: Array, want: Array, clear: Array | None = None) -> None:
        """Account for one row; ``clear`` says which of its values must agree."""
        if not np.isfinite(want).all():
            self.meaningless.append(UNSOUND.format(self.name))
        if self.meaningless:
            return
        every, counting = Errors(), Errors()
        every.take(got, want)
        if clear is not None:
            counting.take(got, want, clear)
            self.turned += self._turned(got, want, clear)
        self.sum.add(every if clear is None else counting)
        self.whole &= whole_numbers(want)
        self.integer |= want.dtype.kind in "biu"
        self.values += want.size
        self.clear += want.size if clear is None else int(np.broadcast_to(clear, want.shape).sum())
        self.changed[row] = every.other
        self.rows[row] = every.worst
        self.max_abs = max(self.max_abs, _apart(got, want) if self.integer else every.worst)
        self.cosine = min(self.cosine, _cosine(got, want))

    def _turned(self, got: Array, want: Array, clear: Array) -> int:
        limit = (self.bound.hanging or self.bound.tolerance) * self.scale
        found = 0
        for have, due, counts in in_blocks(got, want, clear):
            whole = want.dtype.kind in "biu"
            off = have != due if whole else np.abs(have.astype(np.float64) - due.astype(np.float64)) > limit
            found += int((off & ~counts).sum())
        return found

    def rest(self, got: Array, due: Sampled, row: int) -> None:
        """Account for what a whole row has beside its sample, by its figures."""
        self.sum.largest = max(self.sum.largest, due.sample.scale)
        if due.figures is None or self.meaningless:
            return
        if due.values.dtype.kind in "biu":
            self.sum.other += miscounted(got, due.figures[row]) if self.marked else 0
        else:
            off = further_off(got, due.figures[row])
            self.sum.worst, self.max_abs = max(self.sum.worst, off), max(self.max_abs, off)

    def worse(self, other: Differences) -> Differences:
        """The two as one: the worst of each figure."""
        return replace(
            max(self, other, key=lambda one: one.max_rel),
            max_abs=max(self.max_abs, other.max_abs),
            cosine=min(self.cosine, other.cosine),
            changed={row: max(count, other.changed.get(row, 0)) for row, count in self.changed.items()},
            turned=max(self.turned, other.turned),
            rows={row: max(worst, other.rows.get(row, 0.0)) for row, worst in self.rows.items()},
            meaningless=[*self.meaningless, *other.meaningless],
        )

    @property
    def decided(self) -> bool:
        """Whether the bound is of the margins that it was decided by."""
        return self.marked and (self.bound.decided or self.bound.hanging is None)

    @property
    def discrete(self) -> bool:
        """Labels and masks, in whatever type they are held."""
        return self.integer or (self.decided and self.whole)

    @property
    def max_rel(self) -> float:
        return replace(self.sum, whole=self.discrete).value()

    @property
    def median(self) -> float | None:
        """``max_rel`` of the median row, None of so few that they may all have met a step by chance."""
        if self.bound.median is None or len(self.rows) < MEDIAN_ROWS or self.discrete:
            return None
        return float(np.median(list(self.rows.values()))) / (self.sum.largest or 1.0)

    def problems(self) -> list[str]:
        """What is wrong with this output, as sentences."""
        due, median = self.bound.median, None if self.meaningless else self.median
        if due is not None and median is not None and not median <= due:
            return [f"half of the rows of {self.name} differ by {median:.2g} of its largest value, tolerance {due:.2g}"]
        if self.meaningless or self.max_rel <= (0.0 if self.discrete and self.decided else self.bound.tolerance):
            return self.meaningless
        share, bound = self.max_rel, self.bound.tolerance
        if not self.discrete:
            return [f"{self.name} differs by {share:.2g} of its largest value, tolerance {bound:.2g}"]
        if not self.decided:
            return [f"{self.name} differs in {share:.2%} of its values, tolerance {bound:.2%}"]
        return [f"{self.name} differs in {self.sum.other:,} of {self.clear:,} values that are clear of noise"]

    def figures(self) -> OutputParity:
        """The record of this output."""
        clear = (self.clear / self.values if self.values else 1.0) if self.marked else None
        changed = sum(self.changed.values()) / max(1, self.values) if self.discrete else None
        return OutputParity(
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            cosine=self.cosine,
            clear=clear,
            changed=changed,
            values=self.values if self.marked else None,
            turned=self.turned if self.marked else None,
            median=self.median,
        )


def undecided(name: str, figures: OutputParity) -> str | None:
    """Why an output is not proved though nothing is wrong with it: hardly any of it is clear, and the rest differs."""
    if not figures.turned or figures.clear is None or figures.clear >= PROVING:
        return None
    share = "all of its values" if not figures.clear else f"{1 - figures.clear:.1%} of its values"
    return (
        f"{name} is not proved: {share} hang on decisions that are closer than rounding, and "
        f"{figures.turned:,} of {figures.values:,} differ from the model's"
    )


def _apart(got: Array, want: Array) -> float:
    found = (np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0) for a, b in in_blocks(got, want))
    return float(max(found, default=0.0))


def _cosine(got: Array, want: Array) -> float:
    """The cosine similarity of a row; two zero rows are alike."""
    product = ours = theirs = 0.0
    for a, b in in_blocks(got, want):
        # float16 outputs overflow when squared
        exact, due = a.astype(np.float64), b.astype(np.float64)
        product, ours, theirs = product + exact @ due, ours + exact @ exact, theirs + due @ due
    if not (ours and theirs):
        return 1.0 if ours == theirs else 0.0
    # rounding takes equal rows a hair above 1
    return float(np.clip(product / np.sqrt(ours) / np.sqrt(theirs), -1.0, 1.0))
