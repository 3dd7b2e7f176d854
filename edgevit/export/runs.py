"""Runs of a module on rows of its inputs, a group at a time, one way or another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Array
from edgevit.artifact.shelf import Rows, gathered
from edgevit.errors import Unsupported
from edgevit.export.capture import run
from edgevit.export.prepared import Run
from edgevit.export.ways import FULL, SINGLE, Way
from edgevit.models.eager.copying import deep
from edgevit.models.eager.margins import Margins, Script
from edgevit.models.eager.outputs import named_outputs, require_rows
from edgevit.precisions import FLOOR, Errors, clear_of_noise

CHUNK = 8
ROOM = 256 << 20  # bytes of the values of a forward: in float64 fewer rows are run at once where they take more
_ALL = "return all that there can be in every call, and what is to be kept of it beside: a score, a mask"
HALVES = "forward asks for half precision in places; the artifact computes those in its own precision"

Inputs = Mapping[str, Array]
Scripts = Callable[[int], "Script | None"]  # first row of a group -> what has its decisions made


def unscripted(first: int) -> None:
    """Of any group: its decisions are the model's own."""


@dataclass(frozen=True)
class Eager:
    """A module and the rows it is asked about. Runs are of copies of both: forward may edit either.

    ``halves`` says that forward asks for half precision, ``decides`` that outputs were decided somewhere: watching
    every operator for either costs small models dear. ``inside`` says that it computes with what it decided, ``weight``
    is the most bytes that its values take, a row.
    """

    module: nn.Module
    inputs: Inputs
    alone: str
    halves: bool = True
    decides: bool = True
    inside: bool = False
    weight: int = 0

    @property
    def single(self) -> Way:
        return FULL if self.halves else SINGLE

    @property
    def notes(self) -> tuple[str, ...]:
        return (HALVES,) if self.halves else ()

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def fast(self, size: int) -> int:
        """How many rows are run at once in float64: others than the anchor's ``size``, so that it shows where answers
        depend on one another."""
        fitting = min(CHUNK, max(1, ROOM // max(1, 2 * self.weight)))
        return fitting if fitting != size else max(1, size // 2)

    def grouped(self, way: Way, group: int, *, rows: int | None = None) -> Run:
        """Outputs of the first ``rows``, ``group`` at a time, the last group filled up with the first rows again."""
        return gathered_run(self.parts(way, group, rows=rows), rows or self.rows)

    def parts(self, way: Way, group: int, *, rows: int | None = None, scripts: Scripts = unscripted) -> Iterator[Run]:
        """The same group by group, so that no more is held than one; each has the script of its first row."""
        rows, module = rows or self.rows, way.made(self.module)
        # one for all: what the module keeps has its margins in later calls
        margins = Margins() if self.decides else None
        for start in range(0, rows, group):
            picks, script = self.picks(start, group, rows), scripts(start)
            # no name for it: it would be held while the next one is made
            if script is None:
                yield self._part(way, module, picks, margins).head(rows - start)
            else:
                yield self.scripted(way, picks, script).head(rows - start)

    def picks(self, start: int, group: int, rows: int | None = None) -> Array:
        """Which rows a group has."""
        return np.arange(start, start + group) % (rows or self.rows)

    def scripted(self, way: Way, picks: Array, script: Script) -> Run:
        """One group, as the script decides: in a module of its own, which keeps nothing yet that it decided."""
        return self._part(way, way.made(self.module), picks, Margins(script))

    def _part(self, way: Way, module: nn.Module, picks: Array, margins: Margins | None) -> Run:
        with way.mode(module), seeded(0):
            return self.once(way, module, picks, margins)

    def once(self, way: Way, module: nn.Module, picks: Array, margins: Margins | None = None) -> Run:
        """One call, watched by ``margins``."""
        taken = (torch.from_numpy(np.array(array[picks])) for array in self.inputs.values())
        arguments = tuple(value.to(way.dtype) if value.is_floating_point() else value for value in taken)
        if margins:
            margins.begin(arguments)
        with deep(), margins or nullcontext():
            found = named_outputs(run(module, arguments), self.alone)
            require_rows(found, len(picks))
        return run_of(found, margins)

    def golden(self, way: Way, group: int) -> Run:
        """What ``verify`` finds for the golden rows: it runs them alone, so that they fill their batch themselves."""
        return self.grouped(way, group, rows=min(GOLDEN_ROWS, self.rows))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generator from ``seed`` on; as it was, afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def run_of(outputs: Mapping[str, Tensor], margins: Margins | None) -> Run:
    """What one call gave, with the margins that were seen meanwhile."""
    known = {name: margins.of(value) for name, value in outputs.items()} if margins else {}
    return Run(
        {name: value.detach().numpy() for name, value in outputs.items()},
        {name: margin.numpy() for name, margin in known.items() if margin is not None},
    )


def gathered_run(parts: Iterator[Run], rows: int) -> Run:
    """The first ``rows`` of groups as one. Unsupported where what they hold depends on their rows."""
    both = gathered(map(_as_one, _alike(parts)), rows, absent=math.inf)  # no margin: nothing changes it
    outputs, margins = (
        {name: value for (kind, name), value in both.items() if kind == of} for of in ("outputs", "margins")
    )
    return Run(outputs, margins)


def _alike(parts: Iterator[Run]) -> Iterator[Run]:
    due: dict[str, tuple[int, ...]] | None = None
    for part in parts:
        found = {name: tuple(value.shape[1:]) for name, value in part.outputs.items()}
        due = due or found
        if found.keys() != due.keys():
            told = (", ".join(names) for names in (due, found))
            raise Unsupported("the model returns {} for some rows and {} for others".format(*told), hint=_ALL)
        for name, shape in found.items():
            if shape != due[name]:
                raise Unsupported(f"output {name} is {due[name]} for some rows and {shape} for others", hint=_ALL)
        yield part
        del part


def _as_one(part: Run) -> dict[tuple[str, str], Rows]:
    kinds = {"outputs": part.outputs, "margins": part.margins}
    return {(kind, name): value for kind, found in kinds.items() for name, value in found.items()}


def apart(got: Run, want: Run) -> float:
    """The error of the worst output, where no decision hangs in the balance; inf where one is missing."""
    if set(got.outputs) != set(want.outputs):
        return float("inf")
    levels = {name: FLOOR if name in want.margins else None for name in want.outputs}
    return max((error_where_clear(got, want, name, level) for name, level in levels.items()), default=0.0)


def error_where_clear(got: Run, want: Run, name: str, level: float | None) -> float:
    """That of one output, where its decisions are clear of the noise ``level``."""
    found = Errors()
    clear = None if level is None else lambda row: clear_of_noise(want.margins[name][row], level)
    compare(got.outputs.get(name), want.outputs[name], found, clear=clear)
    return found.value()


def compare(
    got: Rows | None, want: Rows, errors: Errors, first: int = 0, clear: Callable[[int], Array] | None = None
) -> None:
    """Take the rows of ``got``, the first of which is row ``first`` of what is wanted, where ``clear`` of a row says
    so."""
    for index in range(len(want) if got is None else len(got)):
        # an output that is missing is as wrong as one of another shape
        have = np.empty(0) if got is None else got[index]
        errors.take(have, want[first + index], clear(first + index) if clear else None)
