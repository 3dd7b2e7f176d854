"""Decisions inside a model that rounding may turn, and what hangs on them.

Each decision has a level: how far the arithmetic of a precision moves the gap to what else could have been decided.
Where a gap is no larger than a few times that, an artifact may decide otherwise and be right. What of its outputs then
moves is found by running the model, in the reference's precision, with such decisions turned: all that can be, then
those that chance picks and the others, so that each is turned in the company of some and not of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.shelf import Named, Rows, gathered
from edgevit.export.prepared import Run
from edgevit.export.runs import Eager
from edgevit.export.ways import Way
from edgevit.models.eager.scripts import Level, Record, Repeat, Turn

MOVES = 0.25  # of its tolerance, by which a value moves that hangs on a decision: several may add up
BITS = 3  # of the numbers of close decisions: any two of 2 ** BITS neighbours are turned without each other


@dataclass
class Deciding:
    """A model whose ``base`` runs, ``group`` rows at a time, make its decisions.

    levels   of every decision, in the order in which they are made
    nearest  by the first row of a group, of every decision the smallest gap, and the smallest but for those of nothing
    used     which decisions anything came of
    """

    model: Eager
    base: Way
    group: int
    levels: list[Level] = field(default_factory=list)
    nearest: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    def parts(self, way: Way, rows: int | None = None) -> Iterator[Run]:
        """The groups of the first ``rows``, or all, one ``way``, each decided as the base does; the levels are known
        after the last."""
        repeats: list[Repeat] = []
        script = partial(self._repeat, repeats, rows)
        for part in self.model.parts(way, self.group, rows=rows, scripts=script):
            self._add(repeats.pop())
            yield part
            del part

    def _repeat(self, repeats: list[Repeat], rows: int | None, first: int) -> Repeat:
        record = Record()
        self.model.scripted(self.base, self.model.picks(first, self.group, rows), record)
        self.nearest[first] = [put.nearest for put in record.put]
        self.used |= record.used
        repeats.append(Repeat(record))
        return repeats[-1]

    def _add(self, repeat: Repeat) -> None:
        for number in range(max(len(repeat.record.put), len(repeat.levels))):
            if number == len(self.levels):
                self.levels.append(Level())
            self.levels[number].add(repeat.levels[number] if number < len(repeat.levels) else Level.unknown())

    def _close(self, first: int) -> bool:
        """Whether a group has a decision that rounding may turn."""
        return any(
            number in self.used and nearest[level.exact] <= level.limit
            for number, (nearest, level) in enumerate(zip(self.nearest[first], self.levels, strict=False))
        )

    def hanging(self, want: Run, limits: Mapping[str, float]) -> Named:
        """Of every output in which some do, which values hang on decisions that rounding may turn; ``limits`` are the
        tolerances, absolute."""
        if not any(map(self._close, self.nearest)):
            return {}
        found = gathered(self._marks(want, limits), want.rows)
        return {name: rows for name, rows in found.items() if any(row.any() for row in rows)}

    def _marks(self, want: Run, limits: Mapping[str, float]) -> Iterator[dict[str, Array]]:
        for first in self.nearest:
            rows = min(self.group, want.rows - first)
            marks = {name: np.zeros((rows, *value.shape[1:]), bool) for name, value in want.outputs.items()}
            for turn in self._turns() if self._close(first) else ():
                part = self.model.scripted(self.base, self.model.picks(first, self.group), turn).head(rows)
                _mark(marks, part, want, first, limits)
                if all(mark.all() for mark in marks.values()):
                    break
            yield marks

    def _turns(self) -> Iterator[Turn]:
        """All that are close, then by each bit of their numbers, as many as these have, those that have it, and not."""
        unused = frozenset(range(len(self.levels))) - self.used
        yield (whole := Turn(self.levels, unused))
        for bit in range(min(BITS, max(0, whole.close - 1).bit_length())):
            yield Turn(self.levels, unused, bit)
            yield Turn(self.levels, unused, bit, others=True)


def _mark(marks: Mapping[str, Array], part: Run, want: Run, first: int, limits: Mapping[str, float]) -> None:
    """Mark the values of a group's outputs that moved."""
    for name, mark in marks.items():
        for row in range(len(mark)):
            mark[row] |= _moved(part.outputs.get(name), row, want.outputs[name][first + row], limits[name] * MOVES)


def _moved(got: Rows | None, row: int, want: Array, limit: float) -> Array:
    if got is None or got.shape[1:] != want.shape:
        return np.ones(want.shape, bool)
    if want.dtype.kind in "biu":
        return np.asarray(got[row] != want)
    with np.errstate(invalid="ignore"):
        return np.asarray(~(np.abs(got[row] - want) <= limit))  # what is no number moved, too
