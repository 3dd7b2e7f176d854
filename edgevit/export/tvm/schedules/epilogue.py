"""What becomes of a reduction's result while it is still in registers: bias, activation, residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Var

from edgevit.export.tvm.schedules.approximate import approximate
from edgevit.export.tvm.schedules.loops import Buffer, Expr, index
from edgevit.export.tvm.schedules.stages import Stage, calls, loads

# words of an epilogue from which it is a loop and not written out for every vector: a bias, a scale and a residual stay
# below, and any call (erf becomes some thirty operations) is above
HEAVY = 24


@dataclass(frozen=True)
class Epilogue:
    """``buffer[indices(point)] = value``, where ``value`` reads the reduction's result at the point."""

    buffer: Buffer
    axes: tuple[Any, ...]
    indices: tuple[Expr, ...]  # over the anchor's axes
    value: Expr  # over ``axes``


def alone(anchor: Stage) -> Epilogue:
    """The reduction's own result, stored as it is."""
    axes = tuple(axis.variable for axis in anchor.axes)
    return Epilogue(anchor.buffer, axes, axes, tirx.BufferLoad(anchor.buffer, list(axes)))


def epilogue_of(anchor: Stage, stage: Stage, value: Expr) -> Epilogue | None:
    """How ``stage`` is computed at each point of the reduction; None when the points do not correspond one to one."""
    found = [load for load in loads(value) if load.source.same_as(anchor.buffer)]
    # a stage that reads the result at two places (a softmax's own row) needs all of it, not one tile
    if not found or any(str(load) != str(found[0]) for load in found):
        return None
    indices = _inverse(anchor, stage, found[0].indices)
    if indices is None:
        return None
    return Epilogue(stage.buffer, tuple(axis.variable for axis in stage.axes), indices, approximate(value))


def _inverse(anchor: Stage, stage: Stage, read_at: Sequence[Expr]) -> tuple[Expr, ...] | None:
    """The stage's position, over the anchor's axes, given at which of the anchor's positions the stage reads."""
    direct: dict[Any, Expr] = {}
    for axis, at in zip(anchor.axes, read_at, strict=True):
        if isinstance(at, Var) and at not in direct:
            direct[at] = axis.variable  # the stage's axis is the anchor's
        elif not (axis.size == 1 and isinstance(at, tirx.IntImm)):
            return _inverse_map(anchor, stage, read_at)
    extents = {at: str(axis.extent) for axis, at in zip(anchor.axes, read_at, strict=True) if at in direct}
    if any(str(axis.extent) != extents.get(axis.variable, "1") for axis in stage.axes):
        return None
    return tuple(direct.get(axis.variable, index(0)) for axis in stage.axes)


def _inverse_map(anchor: Stage, stage: Stage, read_at: Sequence[Expr]) -> tuple[Expr, ...] | None:
    if any(axis.size is None for axis in (*anchor.axes, *stage.axes)):
        return None
    variables = [axis.variable for axis in stage.axes]
    try:
        turned = tirx.IndexMap(variables, list(read_at), None).inverse([axis.extent for axis in stage.axes])
    except Exception:
        return None
    return tuple(turned.map_indices([axis.variable for axis in anchor.axes]))


def heavy(value: Expr) -> bool:
    return bool(calls(value)) or str(value).count(" ") > HEAVY
