"""Pooling of what importers leave out: windows of several sizes, places of the largest, and divisors."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments
from edgevit.export.legalise.windows import adaptive_max_pool2d

aten = torch.ops.aten


def adaptive_max(self: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(…, *sides) -> (…, *``output_size``), and where in the map the largest are."""
    if len(output_size) == 2 and (equal := adaptive_max_pool2d(self, output_size)) is not NotImplemented:
        return equal
    sides = self.shape[self.ndim - len(output_size) :]
    return _largest(self, [_adaptive(side, count, self) for side, count in zip(sides, output_size, strict=True)], sides)


def _adaptive(side: int, count: int, like: Tensor) -> Tensor:
    """(windows, taps): the places of each window, the last one again where a window has fewer."""
    taps = max(-(-(at + 1) * side // count) - at * side // count for at in range(count))
    at = torch.arange(count, device=like.device)
    first = at * side // count
    last = ((at + 1) * side + count - 1) // count - 1
    found = first.unsqueeze(1) + torch.arange(taps, device=like.device)
    return torch.minimum(found, last.unsqueeze(1))


def _largest(self: Tensor, windows: list[Tensor], sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest in every window, the first of equal ones, and its place in a map of ``sides``."""
    count, start = len(windows), self.ndim - len(windows)
    taken = self
    for axis, places in enumerate(windows):
        taken = taken.index_select(start + axis, places.reshape(-1))
    shape = [size for places in windows for size in places.shape]
    taken = taken.reshape([*self.shape[:start], *shape])
    outer, inner = ([start + 2 * axis + side for axis in range(count)] for side in (0, 1))
    lines = taken.permute([*range(start), *outer, *inner]).flatten(start + count)
    place = lines.argmax(-1, keepdim=True)
    whole: Any = 0
    for axis, places in enumerate(windows):
        apart = [[size if each == axis else 1 for each in range(count)] for size in places.shape]
        whole = whole * sides[axis] + places.reshape([*apart[0], *apart[1]])
    table = whole.expand([*[w.shape[0] for w in windows], *[w.shape[1] for w in windows]]).flatten(count)
    where = table.expand([*lines.shape]).gather(-1, place)
    return lines.gather(-1, place).squeeze(-1), where.squeeze(-1)


def max_with_places(
    self: Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1), ceil_mode: bool = False,
) -> tuple[Tensor, Tensor] | Any:  # fmt: skip
    """Where in the map the largest of each window are; without padding above what the map has, by ``ceil_mode``."""
    if ceil_mode or any(self.shape[axis - 2] == 0 for axis in (0, 1)):
        return NotImplemented
    kernel, step, pads, apart = (_both(each) for each in (kernel_size, stride or kernel_size, padding, dilation))
    sides = self.shape[-2:]
    windows = [_sliding(sides[axis], kernel[axis], step[axis], pads[axis], apart[axis], self) for axis in (0, 1)]
    return _largest(self, windows, sides)


def _both(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value) * (2 // len(value))


def _sliding(side: int, kernel: int, step: int, padding: int, apart: int, like: Tensor) -> Tensor:
    """Places outside the map are moved to the nearest tap of their window inside it, which changes no largest value."""
    count = (side + 2 * padding - apart * (kernel - 1) - 1) // step + 1
    starts, taps = (torch.arange(each, device=like.device) for each in (count, kernel))
    found = starts.unsqueeze(1) * step - padding + taps * apart
    under = (-found + apart - 1).clamp(min=0) // apart * apart
    over = (found - (side - 1) + apart - 1).clamp(min=0) // apart * apart
    return found + under - over


def averaged(
    self: Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor | Any:  # fmt: skip
    """Sums over a given divisor: means of whole windows, padding among them, by another factor."""
    if divisor_override is None or ceil_mode:
        return NotImplemented
    count = 2 if self.ndim < 5 and len(kernel_size) != 3 else 3
    kernel = list(kernel_size) * (count // len(kernel_size))
    pool = F.avg_pool2d if count == 2 else F.avg_pool3d
    share = math.prod(kernel) / divisor_override
    return pool(self, kernel, list(stride) or None, list(padding), False, True) * share


def max_along(
    self: Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> Tensor | Any:  # fmt: skip
    """By steps as long as the windows, where none are given."""
    return NotImplemented if stride else aten.max_pool1d(self, kernel_size, kernel_size, padding, dilation, ceil_mode)


def _asks_places(node: fx.Node) -> bool:
    return any(user.target is operator.getitem and user.args[1] == 1 for user in node.users)


def _has_divisor(node: fx.Node) -> bool:
    return arguments(node)["divisor_override"] is not None


POOLING_RULES = {
    aten.adaptive_max_pool2d.default: Rule(adaptive_max),
    aten.adaptive_max_pool3d.default: Rule(adaptive_max),
    aten.max_pool2d_with_indices.default: Rule(max_with_places, _asks_places),
    aten.max_pool1d.default: Rule(max_along, lambda node: not arguments(node)["stride"]),
    aten.avg_pool2d.default: Rule(averaged, _has_divisor),
    aten.avg_pool3d.default: Rule(averaged, _has_divisor),
}
