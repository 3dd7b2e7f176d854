"""How far the arithmetic of a precision moves what a model answers.

Where decisions are made inside the model, the run in that precision makes them as the reference did: one that it turned
would be no rounding any more, and a tolerance that grew with it would let pass anything. What such a turn does is found
by itself (``export/hanging.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgevit.artifact.shelf import Named
from edgevit.export.hanging import Deciding
from edgevit.export.prepared import Answers, Levels, Noise, Run
from edgevit.export.runs import HALVES, Eager, Inputs, compare, error_where_clear, gathered_run
from edgevit.export.ways import DOUBLE, JITTERED, Way, rounded_way
from edgevit.precisions import Errors, largest, precision_row, scale_of, tolerance_for, whole_numbers


def noise(
    module: nn.Module, inputs: Inputs, reference: Answers, precision: str, keep_fp32: Collection[str] = ()
) -> Levels:
    """How far each output of the eager model in ``precision`` is from the reference. UnknownName for a precision
    without a row.

    ``keep_fp32`` are the paths of modules that an fp16 build computes in float32. A float32 reference has float32's
    own rounding on its side, which counts too.
    """
    to, whole = precision_row(precision).rounded_to, reference.whole
    alone = next(iter(whole.outputs))  # what a single output is called; where there are several, they have names
    model = Eager(module, inputs, alone, HALVES in reference.notes, decides=bool(whole.margins))
    ways = [rounded_way(frozenset(keep_fp32), getattr(torch, to)) if to else model.single]
    if reference.computed == "float32":
        ways.append(JITTERED)
    if not reference.inside:
        return Levels(noises([model.parts(way, reference.group) for way in ways], whole))
    deciding = Deciding(model, model.single if reference.computed == "float32" else DOUBLE, reference.group)
    found = noises([deciding.parts(way) for way in ways], whole)
    hanging = deciding.hanging(whole, _limits(found, whole, precision))
    return _with_hanging(found, hanging, model, ways, reference)


def _with_hanging(
    found: Mapping[str, Noise], hanging: Named, model: Eager, ways: Sequence[Way], reference: Answers
) -> Levels:
    """The noise of outputs of which some values hang, and how far they move where the model decides by itself."""
    if not hanging:
        return Levels(found)
    free = noises([model.parts(way, reference.group) for way in ways], reference.whole)
    outputs = {
        name: Noise(noise.error, noise.margin, free[name].error if name in hanging else None)
        for name, noise in found.items()
    }
    return Levels(outputs, {None: hanging})


def _limits(noises: Mapping[str, Noise], whole: Run, precision: str) -> dict[str, float]:
    """How far each output may move where nothing that it hangs on was turned, absolute."""
    return {
        name: tolerance_for(noise.error, precision) * scale_of(max(map(largest, whole.outputs[name])))
        for name, noise in noises.items()
    }


@dataclass(frozen=True)
class _Measured:
    """A run beside the reference: the error of every output, and the rows of those that were decided."""

    errors: Mapping[str, float]
    run: Run


def noises(runs: Sequence[Iterator[Run]], whole: Run) -> dict[str, Noise]:
    """How far each output of some runs, which come in parts, is from that of ``whole`` at most."""
    measured = [_measured(parts, whole) for parts in runs]
    return {name: _noise_of(name, measured, whole) for name in whole.outputs}


def _measured(parts: Iterator[Run], whole: Run) -> _Measured:
    errors = {name: Errors() for name in whole.outputs}

    def decided() -> Iterator[Run]:
        first = 0
        for part in parts:
            for name, error in errors.items():
                compare(part.outputs.get(name), whole.outputs[name], error, first)
            first += part.rows
            part = part.only(whole.margins)
            yield part
            del part

    run = gathered_run(decided(), whole.rows)
    return _Measured({name: error.value() for name, error in errors.items()}, run)


def _noise_of(name: str, runs: Sequence[_Measured], want: Run) -> Noise:
    if name not in want.margins:
        return Noise(max(one.errors[name] for one in runs))
    margin = max(_moved(one.run, want, name) for one in runs)
    if all(whole_numbers(row) for row in want.outputs[name]):
        return Noise(margin, margin)
    return Noise(max(error_where_clear(one.run, want, name, margin) for one in runs), margin)


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
