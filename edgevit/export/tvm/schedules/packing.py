"""How a constant operand of a reduction is laid out, so that its loops read it from one end to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import TensorLoad, Var

from edgevit.artifact.manifest import Array
from edgevit.export.tvm.schedules.loops import Buffer, index
from edgevit.export.tvm.schedules.shape import Shape, uncast
from edgevit.export.tvm.schedules.stages import Kernel, Stage, uses


@dataclass(frozen=True)
class Packing:
    """How a constant column operand is laid out: ``(batch …, panel, k, column)``.

    order    axes of the constant in the order batch, reduction, column
    batch    how many of them are batch axes
    columns  of one panel
    depth    steps of the reduction that lie beside each other for every column
    """

    parameter: int
    order: tuple[int, ...]
    batch: int
    columns: int
    depth: int = 1

    def encode(self) -> list[int]:
        return [self.parameter, self.batch, self.columns, self.depth, *self.order]

    @classmethod
    def decode(cls, numbers: Sequence[Any]) -> Packing:
        parameter, batch, columns, depth, *order = (int(each) for each in numbers)
        return cls(parameter, tuple(order), batch, columns, depth)

    def apply(self, array: Array) -> Array:
        """The packed constant; the last panel overlaps the one before it."""
        turned = array.transpose(self.order)
        batch, size = turned.shape[: self.batch], turned.shape[-1]
        flat = turned.reshape(*batch, -1, size)
        # values stored twice cost less than a shorter last panel, for which every loop would need a second form
        starts = [min(panel * self.columns, size - self.columns) for panel in range(-(-size // self.columns))]
        panels = np.stack([flat[..., at : at + self.columns] for at in starts], axis=-3)
        if self.depth > 1:
            deep = panels.reshape(*panels.shape[:-2], -1, self.depth, self.columns).swapaxes(-1, -2)
            panels = deep.reshape(*deep.shape[:-2], -1)
        return np.ascontiguousarray(panels)


def packing_of(kernel: Kernel, anchor: Stage, shape: Shape, columns: int, depth: int = 1) -> Packing | None:
    """The packing of the column operand where it is a constant read at plain axes."""
    load = uncast(shape.vector)
    if not isinstance(load, TensorLoad):
        return None
    number = next((at for at, each in enumerate(kernel.parameters) if each.same_as(load.source)), None)
    if number is None or number not in kernel.constants:
        return None
    batch = [axis for axis in shape.outer if uses(load, axis.variable)]
    wanted = [*batch, *anchor.reduced, shape.column]
    order = [_position(load, axis.variable) for axis in wanted]
    if None in order or sorted(order) != list(range(len(load.indices))):  # type: ignore[type-var]
        return None
    return Packing(number, tuple(int(each) for each in order if each is not None), len(batch), columns, depth)


def _position(load: Any, variable: Any) -> int | None:
    found = [at for at, each in enumerate(load.indices) if isinstance(each, Var) and each.same_as(variable)]
    return found[0] if len(found) == 1 else None


def packed_buffer(packing: Packing, original: Buffer) -> Buffer:
    sizes = [int(original.shape[axis]) for axis in packing.order]
    batch, steps, size = sizes[: packing.batch], int(np.prod(sizes[packing.batch : -1])), sizes[-1]
    shape = [*batch, -(-size // packing.columns), steps // packing.depth, packing.columns * packing.depth]
    return tirx.decl_buffer([index(each) for each in shape], str(original.dtype), f"{original.name}_packed")
