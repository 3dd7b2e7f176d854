"""Writing at computed places, and counting them, where a converter takes only the plainest of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments
from edgevit.export.legalise.scatter import is_mean, scatter_mean

aten = torch.ops.aten
Places = Sequence[Tensor | None]


def index_put(self: Tensor, indices: Places, values: Tensor, accumulate: bool = False) -> Tensor | Any:
    """The axes that have places first, and a value for every place."""
    if not _is_odd_put(self, indices, values):
        return NotImplemented
    axes = [axis for axis, place in enumerate(indices) if place is not None]
    places = [place for place in indices if place is not None]
    order = [*axes, *(axis for axis in range(self.ndim) if axis not in axes)]
    shape = _common(places)
    rest = [self.shape[axis] for axis in order[len(axes) :]]
    beside = axes == list(range(axes[0], axes[0] + len(axes)))
    lead = axes[0] if beside else 0  # how many of the other axes stand before the places
    new = values.to(self.dtype).expand([*rest[:lead], *shape, *rest[lead:]])
    new = new.movedim(tuple(range(lead, lead + len(shape))), tuple(range(len(shape))))
    written = self.permute(order).index_put([place.expand(shape) for place in places], new, accumulate)
    return written.permute([order.index(axis) for axis in range(self.ndim)])


def _is_odd_put(self: Tensor, indices: Places, values: Tensor) -> bool:
    """Whether the places are not in the first axes, or do not have a value each."""
    places = [place for place in indices if place is not None]
    if any(place.dtype is torch.bool for place in places):
        return False
    whole = [*_common(places), *self.shape[len(places) :]]
    return any(place is None for place in indices[: len(places)]) or list(values.shape) != whole


def _common(places: Sequence[Tensor]) -> torch.Size:
    found: torch.Size = torch.broadcast_tensors(*places)[0].shape  # type: ignore[no-untyped-call]
    return found


def _is_odd_call(node: fx.Node) -> bool:
    given: Any = fx.node.map_arg(node.args[:3], lambda one: one.meta["val"])
    return _is_odd_put(*given)


def gather(self: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor | Any:
    """From a corner of the tensor, whose sizes are those of the places."""
    smaller = _smaller(self, dim, index)
    if not smaller:
        return NotImplemented
    for axis in smaller:
        self = self.narrow(axis, 0, index.shape[axis])
    return self.gather(dim, index)


def _from_a_corner(node: fx.Node) -> bool:
    given = arguments(node)
    return bool(_smaller(given["self"].meta["val"], given["dim"], given["index"].meta["val"]))


def _smaller(whole: Tensor, dim: int, places: Tensor) -> list[int]:
    """The axes beside ``dim`` of which the places are not all."""
    dim %= max(1, whole.ndim)
    return [axis for axis in range(whole.ndim) if axis != dim and str(places.shape[axis]) != str(whole.shape[axis])]


def scatter_reduce(
    self: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor | Any:
    """Means as sums over counts; and where ``include_self`` is False, what is written to forgets what it had."""
    if reduce == "mean":
        return scatter_mean(self, dim, index, src, reduce, include_self=include_self)
    if include_self:
        return NotImplemented
    hit = torch.zeros_like(self).scatter(dim, index, torch.ones_like(src))
    least, most = _limits(self.dtype)
    start = {"sum": 0, "prod": 1, "amax": least, "amin": most}[reduce]
    return torch.where(hit > 0, torch.full_like(self, start), self).scatter_reduce(dim, index, src, reduce)


def _limits(dtype: torch.dtype) -> tuple[Any, Any]:
    if dtype.is_floating_point:
        return -3e38, 3e38  # no infinity: some write another number for it
    found = torch.iinfo(torch.int32)
    return found.min, found.max


def bucketize(self: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many boundaries lie below each value, or ``right`` at it."""
    value = self.unsqueeze(-1)
    below = boundaries <= value if right else boundaries < value
    return below.to(torch.int32).sum(-1).to(torch.int32 if out_int32 else torch.int64)


def searchsorted(
    sorted_sequence: Tensor, self: Tensor, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor | Any:  # fmt: skip
    """In one sequence for all values."""
    if sorted_sequence.ndim != 1 or sorter is not None:
        return NotImplemented
    return bucketize(self, sorted_sequence, out_int32=out_int32, right=right or side == "right")


def _is_odd(node: fx.Node) -> bool:
    return is_mean(node) or not arguments(node)["include_self"]


def sort(self: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """By its plain name: of equals, any may come first."""
    return torch.sort(self, dim, descending)


PUT_RULES = {
    aten.index_put.default: Rule(index_put, _is_odd_call),
    aten.gather.default: Rule(gather, _from_a_corner),
    aten.scatter_reduce.two: Rule(scatter_reduce, _is_odd),
}
SEARCH_RULES = {
    aten.bucketize.Tensor: Rule(bucketize),
    aten.searchsorted.Tensor: Rule(searchsorted),
    aten.sort.stable: Rule(sort),
}
