"""Chooses the kind of loops for a function and puts the parts of a kernel together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tvm.ir import TensorLoad
from tvm.tirx import AllocBuffer, PrimFunc

from edgevit.export.tvm.schedules import choosing, dots, elementwise, generic, packing, rows, tile
from edgevit.export.tvm.schedules.epilogue import Epilogue, alone, epilogue_of
from edgevit.export.tvm.schedules.loops import Expr, Stmt, sequence
from edgevit.export.tvm.schedules.machine import Machine
from edgevit.export.tvm.schedules.shape import Shape, classify
from edgevit.export.tvm.schedules.stages import COMBINERS, Kernel, Stage, inlined, loads, read

PACKED = "edgevit.packed"


@dataclass(frozen=True)
class Tiled:
    """A kernel around one reduction across columns.

    before  stages that are computed into memory first, with their values
    after   the stage that the reduction's tile is finished by (the reduction itself where none can be), and those that
            follow in loops of their own
    depth   products that a step adds up
    """

    kernel: Kernel
    anchor: Stage
    operand: Expr
    shape: Shape
    before: tuple[tuple[Stage, Expr], ...]
    epilogue: Epilogue
    after: tuple[tuple[Stage, Expr], ...]
    depth: int = 1


def tunables(function: Any, machine: Machine) -> dict[str, tuple[int, ...]]:
    kernel = read(function)
    tiled = _tiled(kernel, machine) if kernel else None
    return choosing.choices(tiled.shape, tiled.anchor, machine) if tiled else {}


def write(function: Any, machine: Machine, choice: Mapping[str, int] | None) -> Any:
    kernel = read(function)
    if kernel is None:
        _refuse_choice(choice)
        return generic.schedule(function, machine)
    if tiled := _tiled(kernel, machine):
        return _write_tiled(tiled, machine, choice)
    _refuse_choice(choice)
    if not any(stage.reduced for stage in kernel.stages):
        return _function(kernel, _write_elementwise(kernel, machine))
    if kernel.results > 1:
        return generic.schedule(function, machine)
    if rows.takes(kernel):
        return _function(kernel, rows.nest(kernel, machine))
    return generic.schedule(function, machine)


def _refuse_choice(choice: Mapping[str, int] | None) -> None:
    if choice:
        raise ValueError(f"nothing can be chosen here: {dict(choice)}")


def _function(kernel: Kernel, body: Stmt, parameters: Any = None, **attributes: Any) -> Any:
    made = PrimFunc(list(parameters or kernel.parameters), body)
    kept = {
        key: kernel.function.attrs[key]
        for key in ("global_symbol",)
        if kernel.function.attrs and key in kernel.function.attrs
    }
    return made.with_attr({**kept, "tirx.noalias": True, "s_tir": True, "tirx.is_scheduled": True, **attributes})


def _write_elementwise(kernel: Kernel, machine: Machine) -> Stmt:
    """Loops for every result, and for what is better kept than computed again."""
    results = [stage for stage in kernel.stages if any(stage.buffer.same_as(each) for each in kernel.parameters)]
    kept, cheap = _split(
        tuple(stage for stage in kernel.stages if not any(stage is each for each in results)), tuple(results)
    )
    values = [*kept, *((stage, inlined(stage.value, cheap)) for stage in results)]
    made = [stage.buffer for stage, _ in kept]
    body = [elementwise.nest(stage, value, machine, made) for stage, value in values]
    return sequence(*[AllocBuffer(each) for each in made], *body)


def _split(before: tuple[Stage, ...], readers: tuple[Stage, ...]) -> tuple[list[tuple[Stage, Expr]], dict[Any, Stage]]:
    """Which of ``before`` go to memory, with their values, and those that ``readers`` compute where they read them."""
    kept: list[tuple[Stage, Expr]] = []
    cheap: dict[Any, Stage] = {}
    for stage in before:
        value = inlined(stage.value, cheap)
        if _cheap(stage, value, (*before, *readers)):
            cheap[stage.buffer] = stage
        else:
            kept.append((stage, value))
    return kept, cheap


def _cheap(stage: Stage, value: Expr, readers: tuple[Stage, ...]) -> bool:
    """A stage that is only a renaming of what it reads, or is read once by a stage without a reduction."""
    if isinstance(value, TensorLoad):
        return True  # a copy would cost a pass over memory and save nothing
    reading = [reader for reader in readers for load in loads(reader.value) if load.source.same_as(stage.buffer)]
    # a reduction reads a value once for each of its columns: computed there, it would be computed that often
    return len(reading) <= 1 and not any(reader.reduced for reader in reading)


def _tiled(kernel: Kernel, machine: Machine) -> Tiled | None:
    at = [number for number, stage in enumerate(kernel.stages) if stage.reduced]
    if len(at) != 1 or kernel.results > 1 or kernel.stages[at[0]].combiner not in COMBINERS:
        return None
    anchor = kernel.stages[at[0]]
    before, cheap = _split(kernel.stages[: at[0]], kernel.stages[at[0] :])
    operand = inlined(anchor.value, cheap)
    shape = classify(anchor, operand)
    if shape is None:
        return None
    epilogue, after = _epilogue(kernel.stages[at[0] + 1 :], anchor, cheap, [stage.buffer for stage, _ in before])
    found = Tiled(kernel, anchor, operand, shape, tuple(before), epilogue, after)
    return _dotted(found, machine) or found


def _dotted(tiled: Tiled, machine: Machine) -> Tiled | None:
    """The same in steps of several products of integers, where the machine and the model have them."""
    by_four = dots.by_four(tiled.anchor, tiled.shape) if machine.dots and tiled.shape.vector is not None else None
    if by_four is None or tiled.shape.columns < machine.lanes:
        return None
    if packing.packing_of(tiled.kernel, by_four, tiled.shape, machine.lanes) is None:
        return None
    return replace(tiled, anchor=by_four, depth=dots.DEPTH)


def _epilogue(
    following: tuple[Stage, ...], anchor: Stage, cheap: dict[Any, Stage], scratch: list[Any]
) -> tuple[Epilogue, tuple[tuple[Stage, Expr], ...]]:
    """The last of the stages that the tile can be finished by, and those after it that go to memory, with values."""
    for end in range(len(following), 0, -1):  # the longest first: what is in the tile needs no pass over memory
        inner = {**cheap, **{each.buffer: each for each in following[: end - 1]}}
        rest = _after(following[end:], cheap)
        hidden = {anchor.buffer, *(each.buffer for each in following[: end - 1])}
        if any(load.source in hidden for _, value in rest for load in loads(value)):
            continue  # what stays in registers cannot be read afterwards
        stage = following[end - 1]
        value = inlined(stage.value, inner)
        if rest and elementwise.reads(value, scratch):
            continue  # the tile's own result may lie where that was: cells that are computed twice would read it
        if (epilogue := epilogue_of(anchor, stage, value)) is not None:
            return epilogue, rest
    return alone(anchor), _after(following, cheap)


def _after(stages: tuple[Stage, ...], cheap: dict[Any, Stage]) -> tuple[tuple[Stage, Expr], ...]:
    """Which of the ``stages`` behind a tile go to memory: not one that is read once, by one with as many points."""
    passing = dict(cheap)
    found = []
    for stage in stages:
        value = inlined(stage.value, passing)
        reading = [each for each in stages for load in loads(each.value) if load.source.same_as(stage.buffer)]
        if len(reading) == 1 and _extents(reading[0]) == _extents(stage):
            passing[stage.buffer] = stage
        else:
            found.append((stage, value))
    return tuple(found)


def _extents(stage: Stage) -> list[str]:
    return [str(axis.extent) for axis in stage.axes]


def _write_tiled(tiled: Tiled, machine: Machine, given: Mapping[str, int] | None) -> Any:
    kernel, anchor = tiled.kernel, tiled.anchor
    choice = choosing.chosen(tiled.shape, anchor, machine, given)
    laid_out = packing.packing_of(kernel, anchor, tiled.shape, choice.columns, tiled.depth)
    parameters, packed, attributes = list(kernel.parameters), None, {}
    if laid_out is not None:
        packed = packing.packed_buffer(laid_out, parameters[laid_out.parameter])
        parameters[laid_out.parameter] = packed
        attributes = {PACKED: laid_out.encode()}
    reduction = tile.Reduction(anchor, tiled.operand, tiled.shape, choice, tiled.epilogue, machine, packed, laid_out)
    made = [stage.buffer for stage, _ in tiled.before]
    if tiled.after:
        made += [tiled.epilogue.buffer, *(stage.buffer for stage, _ in tiled.after[:-1])]
    body = sequence(
        *[AllocBuffer(buffer) for buffer in made],
        *[elementwise.nest(stage, value, machine, made) for stage, value in tiled.before],
        tile.nest(reduction),
        *[elementwise.nest(stage, value, machine, made) for stage, value in tiled.after],
    )
    return _function(kernel, body, parameters, **attributes)
