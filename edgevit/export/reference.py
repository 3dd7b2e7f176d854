"""What an artifact is compared with: the eager model's own answers in float64, at the batch that is built.

A reference is worth what it has in common with the user's model. So it is anchored: the model runs in float32 as it is,
at the batch that was asked for, and the float64 run (fast in groups of eight, whatever forward says about precision)
must tell the same within rounding. Where it does not, it is run at that batch; where it still does not, or cannot run,
float32 is the reference, and rounding errors made on purpose are its noise.

No more rows are run at once than the values of a forward leave room for, and rows that are large go to the disk as they
are made: a proof takes a few times the memory of the model, however much it answers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from edgevit.artifact.manifest import BatchRange
from edgevit.artifact.shelf import Named
from edgevit.errors import EdgeVitError, Unsupported
from edgevit.export.hanging import Deciding
from edgevit.export.prepared import Answers, Run
from edgevit.export.runs import CHUNK, Eager, Inputs, apart, gathered_run, seeded
from edgevit.export.ways import DOUBLE, FULL, JITTERED, single
from edgevit.models.eager.faults import moving, no_numbers
from edgevit.models.eager.margins import Margins
from edgevit.models.eager.promotion import in_full
from edgevit.models.eager.weighing import Weighing
from edgevit.precisions import FLOOR

ANCHORED = 4  # rows, at least, that the float64 run must agree on with the model as it is
REPEATABLE = 1e-6  # two float32 runs of the same rows, in whatever order threads sum
DEPENDENT = "an answer depends on the other rows of its batch: proved at batch {} only, for which it was built"
TURNED = 1e-3  # of its scale: float32 moves no decision further
SLACK = 30.0  # a float64 run this many times further off than rounding explains is of another function


def answers(module: nn.Module, inputs: Inputs, batch: BatchRange, *, alone: str = "output") -> Answers:
    """The reference on all rows. ``module`` is copied, never edited or run; a single output is called ``alone``.

    ParityFailed for answers that are no numbers, Unsupported for those that change from call to call, or with the
    other rows of their batch where the batch is dynamic.
    """
    size = min(max(batch.min, CHUNK), batch.max)
    model = _steady(Eager(module, inputs, alone), size)
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
            return Answers(exact, golden, group, "float64", notes, model.inside)
        why = "what it computes there is something else"
    exact = model.grouped(model.single, size)
    _require_numbers(module, exact.outputs)
    notes = (
        *model.notes,
        f"the reference is the eager model in float32, as it cannot be had in float64: {why}",
    )
    return Answers(exact, model.golden(model.single, size), size, "float32", notes, model.inside)


def _steady(model: Eager, size: int) -> Eager:
    """``model``, knowing whether it asks for half precision and decides, from two calls with the first ``size`` rows.

    Raises unless its answers are numbers, and the same both times.
    """
    module, picks = single(model.module), np.arange(size) % model.rows
    with Weighing() as weighing, in_full() as types, seeded(0):
        watch = Margins()
        first = gathered_run(iter([model.once(FULL, module, picks, watch)]), size)
    _require_numbers(model.module, first.outputs)
    with in_full(), seeded(1):
        state = torch.get_rng_state()
        again = model.once(FULL, module, picks)  # where decisions hang in the balance, the first call said
        # Whether numbers were drawn is asked of the generator: what is drawn may seldom change an answer.
        if not torch.equal(state, torch.get_rng_state()):
            raise moving(random=True)
        if apart(again, first) > REPEATABLE:
            fresh = model.once(FULL, single(model.module), picks)
            raise moving(random=apart(fresh, first) > REPEATABLE)
    decides, weight = bool(first.margins), weighing.peak // size
    return replace(model, halves=types.changed, decides=decides, inside=watch.inside, weight=weight)


def _require_numbers(module: nn.Module, outputs: Named) -> None:
    for name, rows in outputs.items():
        if not all(np.isfinite(row).all() for row in rows):
            raise no_numbers(module, f"output {name}")


def _require_independent(model: Eager, anchor: Run, size: int, other: int) -> None:
    """Unsupported where the first ``size`` rows, run together, have other answers in groups of ``other`` rows."""
    rows = min(model.rows, size)
    alike = _agrees(
        replace(model, inside=False), anchor.head(size), model.grouped(model.single, other, rows=rows), size
    )
    # float64 turns no decision for being run in another group
    if not (alike or (model.inside and _independent(model, size, other, rows))):
        raise Unsupported(
            "this model cannot take a dynamic batch: its answer to a row depends on the other rows of the batch",
            hint="export with --batch 1, or with the batch size that it is always called with",
        )


def _independent(model: Eager, size: int, other: int, rows: int) -> bool:
    try:
        return apart(model.grouped(DOUBLE, other, rows=rows), model.grouped(DOUBLE, size, rows=rows)) <= FLOOR
    except EdgeVitError:
        return False


def _agrees(model: Eager, anchor: Run, other: Run, size: int) -> bool:
    """Whether the first rows of ``other`` differ from the anchor, run ``size`` at a time, by no more than rounding
    explains, given how much this model makes of it."""
    rows = len(next(iter(anchor.outputs.values())))
    found = apart(other.head(rows), anchor)
    if found <= FLOOR or not np.isfinite(found):
        return found <= FLOOR
    if found <= SLACK * apart(model.grouped(JITTERED, size, rows=rows), anchor):
        return True
    return model.inside and _decides_alike(model, anchor, other.head(rows), size)


def _decides_alike(model: Eager, anchor: Run, other: Run, size: int) -> bool:
    """The same of a model that computes with what it decides, where one run turned a decision: whether the float64 run
    agrees if it decides as the anchor did, would turn none that is further from it than rounding moves, and gives
    ``other`` if it decides by itself."""
    rows, deciding = anchor.rows, Deciding(model, model.single, size)
    exact = gathered_run(deciding.parts(DOUBLE, rows), rows)
    if any(not level.moved <= TURNED * level.size for level in deciding.levels):
        return False
    moved = gathered_run(Deciding(model, model.single, size).parts(JITTERED, rows), rows)
    if apart(exact, anchor) > max(FLOOR, SLACK * apart(moved, anchor)):
        return False
    return apart(model.grouped(DOUBLE, size, rows=rows), other) <= FLOOR
