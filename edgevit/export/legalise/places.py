"""Values read and written at computed places: one gather, or one scatter, along one axis of merged ones.

Some importers read two lists of places as a grid, and a place that is counted from the end as one before the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments
from edgevit.export.legalise.arithmetic import scatter_value as one_place

aten = torch.ops.aten
Places = Sequence[Tensor | None]


def _counted(place: Tensor, size: Any) -> Tensor:
    """From the start, for places that are counted from the end."""
    return torch.where(place < 0, place + size, place)


def _given(places: Places) -> list[tuple[int, Tensor]]:
    return [(axis, place) for axis, place in enumerate(places) if place is not None]


def _line(self: Tensor, given: list[tuple[int, Tensor]]) -> Tensor:
    """One place in the merged axes for the places in each of them."""
    found: Any = 0
    for axis, place in given:
        found = found * self.shape[axis] + _counted(place.to(torch.int64), self.shape[axis])
    return torch.as_tensor(found)


def _beside(axes: list[int]) -> bool:
    return axes == list(range(axes[0], axes[0] + len(axes)))


def index(self: Tensor, indices: Places) -> Tensor | Any:
    """``self[places, …]`` of integers: axes that are not beside each other come first, as in PyTorch."""
    given = _given(indices)
    axes = [axis for axis, _ in given]
    if any(place.dtype is torch.bool for _, place in given):
        return NotImplemented
    line = _line(self, given)
    if not _beside(axes):
        self = self.permute([*axes, *(axis for axis in range(self.ndim) if axis not in axes)])
        axes = list(range(len(axes)))
    before, merged, after = self.shape[: axes[0]], self.shape[axes[0] : axes[-1] + 1], self.shape[axes[-1] + 1 :]
    flat = self.reshape([*before, math.prod(merged), *after])
    return flat.index_select(len(before), line.reshape(-1)).reshape([*before, *line.shape, *after])


def index_put(self: Tensor, indices: Places, values: Tensor, accumulate: bool = False) -> Tensor | Any:
    """``self[places, …] = values``, or ``+=``."""
    given = _given(indices)
    if any(place.dtype is torch.bool for _, place in given):
        return _masked(self, given[0], values, accumulate) if len(given) == 1 else NotImplemented
    axes = [axis for axis, _ in given]
    others = [axis for axis in range(self.ndim) if axis not in axes]
    line = _line(self, given)
    rest = [self.shape[axis] for axis in others]
    lead = axes[0] if _beside(axes) else 0  # how many of the other axes stand before the places
    new = values.to(self.dtype).expand([*rest[:lead], *line.shape, *rest[lead:]])
    new = new.movedim(tuple(range(lead, lead + line.ndim)), tuple(range(line.ndim)))
    order = [*axes, *others]
    size = math.prod(rest)
    flat = self.permute(order).reshape([-1, size])
    rows = line.reshape(-1, 1).expand(-1, size)
    scatter = flat.scatter_add if accumulate else flat.scatter
    written = scatter(0, rows, new.reshape(-1, size)).reshape([self.shape[axis] for axis in order])
    return written.permute([order.index(axis) for axis in range(self.ndim)])


def _masked(self: Tensor, given: tuple[int, Tensor], values: Tensor, accumulate: bool) -> Tensor | Any:
    """Where a mask is true; not for values that are counted off for the places that it has."""
    axis, mask = given
    rest = self.ndim - axis - mask.ndim
    extra = values.ndim - rest
    if extra > 0 and (extra > axis + 1 or any(size != 1 for size in values.shape[:extra])):
        return NotImplemented
    new = values.reshape(values.shape[max(0, extra) :]).to(self.dtype)
    return torch.where(mask.reshape([*mask.shape, *[1] * rest]), self + new if accumulate else new, self)


def take(self: Tensor, index: Tensor) -> Tensor:
    flat = self.reshape(-1)
    return flat.index_select(0, _counted(index, flat.shape[0]).reshape(-1)).reshape(index.shape)


def select(self: Tensor, dim: int, index: int) -> Tensor | Any:
    """From the end."""
    return torch.select(self, dim, index + self.shape[dim]) if index < 0 else NotImplemented


def unfold(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Sliding windows along an axis, which become the last one."""
    axis = dimension % max(1, self.ndim)
    count = (self.shape[axis] - size) // step + 1
    starts, taps = (torch.arange(each, device=self.device) for each in (count, size))
    places = (starts.unsqueeze(1) * step + taps).reshape(-1)
    shape = [*self.shape[:axis], count, size, *self.shape[axis + 1 :]]
    return self.index_select(axis, places).reshape(shape).movedim(axis + 1, -1)


def scattered(operator: Callable[..., Any]) -> Rule:
    """Into a corner of the tensor, and from a corner of the source, whose sizes are those of the places."""

    def written(self: Tensor, dim: int, index: Tensor, src: Tensor, *more: Any, **named: Any) -> Tensor | Any:
        dim %= max(1, self.ndim)
        beside = [axis for axis in range(self.ndim) if axis != dim and index.shape[axis] != self.shape[axis]]
        if src.shape == index.shape and not beside:
            return NotImplemented
        corners = [self]  # each smaller in one axis more
        for axis in beside:
            corners.append(corners[-1].narrow(axis, 0, index.shape[axis]))
        for axis, size in enumerate(index.shape):
            src = src.narrow(axis, 0, size)
        found = operator(corners.pop(), dim, index, src, *more, **named)
        for axis, whole in zip(reversed(beside), reversed(corners), strict=True):
            size = index.shape[axis]
            found = torch.cat([found, whole.narrow(axis, size, whole.shape[axis] - size)], axis)
        return found

    return Rule(written, _in_a_corner)


def scatter_value(self: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    found = one_place(self, dim, index, value)
    filled = torch.full(index.shape, value, dtype=self.dtype, device=self.device)
    return self.scatter(dim, index, filled) if found is NotImplemented else found


def scatter_reduced_value(self: Tensor, dim: int, index: Tensor, value: Any, *, reduce: str) -> Tensor:
    filled = torch.full(index.shape, value, dtype=self.dtype, device=self.device)
    return torch.scatter(self, dim, index, filled, reduce=reduce)


def masked_scatter(self: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The next one of ``source`` at every place of a mask."""
    mask = mask.expand(self.shape)
    before = mask.reshape(-1).to(torch.int64).cumsum(0) - 1
    flat = source.reshape(-1)
    taken = flat.index_select(0, before.clamp(0, flat.shape[0] - 1)).reshape(self.shape)
    return torch.where(mask, taken, self)


def sliced_in(
    self: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor | Any:
    """Between ends that are named."""
    if start is not None and end is not None:
        return NotImplemented
    size = self.shape[dim]
    return torch.slice_scatter(self, src, dim, 0 if start is None else start, size if end is None else end, step)


def _is_open(node: fx.Node) -> bool:
    given = arguments(node)
    return given["start"] is None or given["end"] is None


def parts(self: Tensor, split_sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """One by one, where one of them is empty."""
    starts = [sum(split_sizes[:at]) for at in range(len(split_sizes))]
    return [self.narrow(dim, start, size) for start, size in zip(starts, split_sizes, strict=True)]


def _in_a_corner(node: fx.Node) -> bool:
    given = arguments(node)
    start, index, source = (given[name].meta["val"] for name in ("self", "index", "src"))
    dim = given["dim"] % max(1, start.ndim)
    sides = [(start.shape[axis], index.shape[axis]) for axis in range(start.ndim) if axis != dim]
    return bool(source.shape != index.shape or any(whole != part for whole, part in sides))


PLACE_RULES = {
    aten.index.Tensor: Rule(index),
    aten.index_put.default: Rule(index_put),
    aten.take.default: Rule(take),
    aten.select.int: Rule(select, lambda node: isinstance(node.args[2], int) and node.args[2] < 0),
    aten.unfold.default: Rule(unfold),
    aten.scatter.value: Rule(scatter_value),
    aten.scatter.value_reduce: Rule(scatter_reduced_value),
    aten.masked_scatter.default: Rule(masked_scatter),
    aten.slice_scatter.default: Rule(sliced_in, _is_open),
    aten.split_with_sizes.default: Rule(parts, lambda node: 0 in arguments(node)["split_sizes"]),
    **{each: scattered(each) for each in (aten.scatter.src, aten.scatter_add.default, aten.scatter.reduce)},
}
