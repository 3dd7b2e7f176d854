"""What an artifact is compared with: the eager model's own answers in float64, at the batch that is built.

A reference is worth what it has in common with the user's model. So it is anchored: the model runs in float32 as it is,
at the batch that was asked for, and the float64 run (fast in groups of eight, whatever forward says about precision)
must tell the same within rounding. Where it does not, it is run at that batch; where it still does not, or cannot run,
float32 is the reference, and rounding errors made on purpose are its noise.

No more rows are run at once than the values of a forward leave room for, and rows that are large go to the disk as they
are made: a proof takes a few times the memory of the model, however much it answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import Array, BatchRange
from edgevit.artifact.shelf import Named, Rows, gathered
from edgevit.errors import EdgeVitError, Unsupported
from edgevit.export.capture import run
from edgevit.export.prepared import Answers, Noise, Run
from edgevit.export.ways import DOUBLE, FULL, JITTERED, SINGLE, Way, rounded_way, single
from edgevit.models.eager.copying import deep
from edgevit.models.eager.faults import moving, no_numbers
from edgevit.models.eager.margins import Margins
from edgevit.models.eager.outputs import named_outputs, require_rows
from edgevit.models.eager.promotion import in_full
from edgevit.models.eager.weighing import Weighing
from edgevit.precisions import FLOOR, Errors, clear_of_noise, precision_row, whole_numbers

CHUNK = 8
ROOM = 256 << 20  # bytes of the values of a forward: in float64 fewer rows are run at once where they take more
ANCHORED = 4  # rows, at least, that the float64 run must agree on with the model as it is
REPEATABLE = 1e-6  # two float32 runs of the same rows, in whatever order threads sum
HALVES = "forward asks for half precision in places; the artifact computes those in its own precision"
DEPENDENT = "an answer depends on the other rows of its batch: proved at batch {} only, for which it was built"
_ALL = "return all that there can be in every call, and what is to be kept of it beside: a score, a mask"
SLACK = 30.0  # a float64 run this many times further off than rounding explains is of another function

Inputs = Mapping[str, Array]


def answers(module: nn.Module, inputs: Inputs, batch: BatchRange, *, alone: str = "output") -> Answers:
    """The reference on all rows. ``module`` is copied, never edited or run; a single output is called ``alone``.

    ParityFailed for answers that are no numbers, Unsupported for those that change from call to call, or with the
    other rows of their batch where the batch is dynamic.
    """
    size = min(max(batch.min, CHUNK), batch.max)
    model = _steady(_Eager(module, inputs, alone), size)
    anchor = model.grouped(model.single, size, rows=min(model.rows, -(-ANCHORED // size) * size))
    if batch.dynamic:
        _require_independent(model, anchor, size, batch.min if batch.min < size else batch.max)
    fast, why = model.fast(size), ""
    for group in dict.fromkeys((fast, size)):
        try:
            exact = model.grouped(DOUBLE, group)
        except EdgeVitError as exc:
            why = str(exc)
            continue
        if _agrees(model, anchor, exact, size):
            _require_numbers(module, exact.outputs)
            notes = model.notes if group == fast else (*model.notes, DEPENDENT.format(size))
            golden = exact.head() if group == fast else model.golden(DOUBLE, group)
            return Answers(exact, golden, group, "float64", notes)
        why = "what it computes there is something else"
    exact = model.grouped(model.single, size)
    _require_numbers(module, exact.outputs)
    notes = (
        *model.notes,
        f"the reference is the eager model in float32, as it cannot be had in float64: {why}",
    )
    return Answers(exact, model.golden(model.single, size), size, "float32", notes)


def noise(
    module: nn.Module, inputs: Inputs, reference: Answers, precision: str, keep_fp32: Collection[str] = ()
) -> dict[str, Noise]:
    """How far each output of the eager model in ``precision`` is from the reference. UnknownName for a precision
    without a row.

    ``keep_fp32`` are the paths of modules that an fp16 build computes in float32. A float32 reference has float32's
    own rounding on its side, which counts too.
    """
    half, whole = precision_row(precision).emulation == "rounded to fp16", reference.whole
    alone = next(iter(whole.outputs))  # what a single output is called; where there are several, they have names
    model = _Eager(module, inputs, alone, HALVES in reference.notes, decides=bool(whole.margins))
    ways = [rounded_way(frozenset(keep_fp32)) if half else model.single]
    if reference.computed == "float32":
        ways.append(JITTERED)
    runs = [_measured(model.parts(way, reference.group), whole) for way in ways]
    return {name: _noise_of(name, runs, whole) for name in whole.outputs}


@dataclass(frozen=True)
class _Measured:
    """A run beside the reference: the error of every output, and the rows of those that were decided."""

    errors: Mapping[str, float]
    run: Run


def _measured(parts: Iterator[Run], whole: Run) -> _Measured:
    errors = {name: Errors() for name in whole.outputs}

    def decided() -> Iterator[Run]:
        first = 0
        for part in parts:
            for name, error in errors.items():
                _compare(part.outputs.get(name), whole.outputs[name], error, first)
            first += part.rows
            part = part.only(whole.margins)
            yield part
            del part

    run = _gathered(decided(), whole.rows)
    return _Measured({name: error.value() for name, error in errors.items()}, run)


def _compare(
    got: Rows | None, want: Rows, errors: Errors, first: int = 0, clear: Callable[[int], Array] | None = None
) -> None:
    """Take the rows of ``got``, the first of which is row ``first`` of what is wanted, where ``clear`` of a row says
    so."""
    for index in range(len(want) if got is None else len(got)):
        # an output that is missing is as wrong as one of another shape
        have = np.empty(0) if got is None else got[index]
        errors.take(have, want[first + index], clear(first + index) if clear else None)


def _noise_of(name: str, runs: Sequence[_Measured], want: Run) -> Noise:
    """The largest of one output, over all runs."""
    if name not in want.margins:
        return Noise(max(one.errors[name] for one in runs))
    margin = max(_moved(one.run, want, name) for one in runs)
    if all(whole_numbers(row) for row in want.outputs[name]):
        return Noise(margin, margin)
    return Noise(max(_error(one.run, want, name, margin) for one in runs), margin)


def _moved(got: Run, want: Run, name: str) -> float:
    """How far margins moved: one that turned its decision went by nothing and out on the other side. Of values that
    were only picked nothing says which decision they are of."""
    if tuple(got.outputs[name].shape) != tuple(want.outputs[name].shape):
        return float("inf")
    # A model that keeps what it decided once is not seen to decide it again: that did not move unless it turned.
    known = got.margins.get(name, want.margins[name])
    whole = all(whole_numbers(row) for row in want.outputs[name])
    worst = 0.0
    for index in range(want.rows):
        here, there = (margins[index].astype(np.float64) for margins in (known, want.margins[name]))
        finite = np.isfinite(here) & np.isfinite(there)  # what nothing can change has no margin to move
        turned = got.outputs[name][index] != want.outputs[name][index] if whole else False
        worst = max(worst, float(np.abs(np.where(turned, -here, here) - there).max(initial=0.0, where=finite)))
    return worst


def _error(got: Run, want: Run, name: str, level: float | None) -> float:
    """That of one output, where its decisions are clear of the noise ``level``."""
    found = Errors()
    clear = None if level is None else lambda row: clear_of_noise(want.margins[name][row], level)
    _compare(got.outputs.get(name), want.outputs[name], found, clear=clear)
    return found.value()


def apart(got: Run, want: Run) -> float:
    """The error of the worst output, where no decision hangs in the balance; inf where one is missing."""
    if set(got.outputs) != set(want.outputs):
        return float("inf")
    levels = {name: FLOOR if name in want.margins else None for name in want.outputs}
    return max((_error(got, want, name, level) for name, level in levels.items()), default=0.0)


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Eager:
    """A module and the rows it is asked about. Runs are of copies of both: forward may edit either.

    ``halves`` says that forward asks for half precision, ``decides`` that outputs were decided somewhere: watching
    every operator for either costs small models dear. ``weight`` is the most bytes that its values take, a row.
    """

    module: nn.Module
    inputs: Inputs
    alone: str
    halves: bool = True
    decides: bool = True
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
        return _gathered(self.parts(way, group, rows=rows), rows or self.rows)

    def parts(self, way: Way, group: int, *, rows: int | None = None) -> Iterator[Run]:
        """The same group by group, so that no more is held than one."""
        rows, module = rows or self.rows, way.made(self.module)
        margins = (
            Margins() if self.decides else None
        )  # one for all: what the module keeps has its margins in later calls
        for start in range(0, rows, group):
            # no name for it: it would be held while the next one is made
            yield self._part(way, module, np.arange(start, start + group) % rows, margins).head(rows - start)

    def _part(self, way: Way, module: nn.Module, picks: Array, margins: Margins | None) -> Run:
        with way.mode(module), _seeded(0):
            return self.once(way, module, picks, margins)

    def once(self, way: Way, module: nn.Module, picks: Array, margins: Margins | None = None) -> Run:
        taken = (torch.from_numpy(np.array(array[picks])) for array in self.inputs.values())
        arguments = tuple(value.to(way.dtype) if value.is_floating_point() else value for value in taken)
        with deep(), margins or nullcontext():
            found = named_outputs(run(module, arguments), self.alone)
            require_rows(found, len(picks))
            known = {name: margins.of(value) for name, value in found.items()} if margins else {}
        return Run(
            {name: value.detach().numpy() for name, value in found.items()},
            {name: margin.numpy() for name, margin in known.items() if margin is not None},
        )

    def golden(self, way: Way, group: int) -> Run:
        """What ``verify`` finds for the golden rows: it runs them alone, so that they fill their batch themselves."""
        return self.grouped(way, group, rows=min(GOLDEN_ROWS, self.rows))


def _steady(model: _Eager, size: int) -> _Eager:
    """``model``, knowing whether it asks for half precision and decides, from two calls with the first ``size`` rows.

    Raises unless its answers are numbers, and the same both times.
    """
    module, picks = single(model.module), np.arange(size) % model.rows
    with Weighing() as weighing, in_full() as types, _seeded(0):
        first = _gathered(iter([model.once(FULL, module, picks, Margins())]), size)
    _require_numbers(model.module, first.outputs)
    with in_full(), _seeded(1):
        state = torch.get_rng_state()
        again = model.once(FULL, module, picks)  # where decisions hang in the balance, the first call said
        # Whether numbers were drawn is asked of the generator: what is drawn may seldom change an answer.
        if not torch.equal(state, torch.get_rng_state()):
            raise moving(random=True)
        if apart(again, first) > REPEATABLE:
            fresh = model.once(FULL, single(model.module), picks)
            raise moving(random=apart(fresh, first) > REPEATABLE)
    return replace(model, halves=types.changed, decides=bool(first.margins), weight=weighing.peak // size)


def _gathered(parts: Iterator[Run], rows: int) -> Run:
    both = gathered(map(_as_one, _alike(parts)), rows, absent=math.inf)  # no margin: nothing changes it
    outputs, margins = (
        {name: value for (kind, name), value in both.items() if kind == of} for of in ("outputs", "margins")
    )
    return Run(outputs, margins)


def _alike(parts: Iterator[Run]) -> Iterator[Run]:
    """The parts. Unsupported where what they hold depends on their rows."""
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


def _require_numbers(module: nn.Module, outputs: Named) -> None:
    for name, rows in outputs.items():
        if not all(np.isfinite(row).all() for row in rows):
            raise no_numbers(module, f"output {name}")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's generator from ``seed`` on; as it was, afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _require_independent(model: _Eager, anchor: Run, size: int, other: int) -> None:
    """Unsupported where the first ``size`` rows, run together, have other answers in groups of ``other`` rows."""
    rows = min(model.rows, size)
    if not _agrees(model, anchor.head(size), model.grouped(model.single, other, rows=rows), size):
        raise Unsupported(
            "this model cannot take a dynamic batch: its answer to a row depends on the other rows of the batch",
            hint="export with --batch 1, or with the batch size that it is always called with",
        )


def _agrees(model: _Eager, anchor: Run, other: Run, size: int) -> bool:
    """Whether the first rows of ``other`` differ from the anchor, run ``size`` at a time, by no more than rounding
    explains, given how much this model makes of it."""
    rows = len(next(iter(anchor.outputs.values())))
    found = apart(other.head(rows), anchor)
    if found <= FLOOR or not np.isfinite(found):
        return found <= FLOOR
    return found <= SLACK * apart(model.grouped(JITTERED, size, rows=rows), anchor)
