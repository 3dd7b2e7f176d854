"""Values moved and merged: diagonals, maps rolled as one line, windows folded back, uneven means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten


def diagonal(self: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """One line of a matrix, read from the matrix as one line."""
    moved = self.movedim((dim1, dim2), (-2, -1))
    rows, columns = moved.shape[-2:]
    first = -offset * columns if offset < 0 else offset
    count = max(0, min(rows + min(0, offset), columns - max(0, offset)))
    places = first + torch.arange(count, device=self.device) * (columns + 1)
    return moved.flatten(-2).index_select(-1, places)


def roll(self: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor | Any:
    """All axes as one."""
    if dims:
        return NotImplemented
    return self.reshape(-1).roll(list(shifts), [0]).reshape(self.shape)


def fold(
    self: Tensor, output_size: Sequence[int], kernel_size: Sequence[int], dilation: Sequence[int],
    padding: Sequence[int], stride: Sequence[int],
) -> Tensor:  # fmt: skip
    """(B, C kh kw, windows) -> (B, C, H, W): a transposed convolution that puts every tap to its place."""
    if self.ndim == 2:
        return fold(self[None], output_size, kernel_size, dilation, padding, stride)[0]
    taps = kernel_size[0] * kernel_size[1]
    high, wide = (
        (output_size[axis] + 2 * padding[axis] - dilation[axis] * (kernel_size[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    one = torch.eye(taps, dtype=self.dtype, device=self.device).reshape(taps, 1, *kernel_size)
    found = F.conv_transpose2d(self.reshape(-1, taps, high, wide), one, None, tuple(stride), dilation=tuple(dilation))
    for axis in (0, 1):  # a border that no window reaches is zero
        missing = output_size[axis] + 2 * padding[axis] - found.shape[2 + axis]
        found = F.pad(found, (0, 0, 0, missing) if axis == 0 else (0, missing)) if missing else found
        found = found.narrow(2 + axis, padding[axis], output_size[axis])
    return found.reshape(self.shape[0], -1, *output_size)


def adaptive_mean(self: Tensor, output_size: Sequence[int]) -> Tensor:
    """Means of windows of several sizes: a matrix for each axis."""
    for axis, count in enumerate(output_size):
        place = self.ndim - len(output_size) + axis
        share = _shares(self.shape[place], count, self)
        self = (self.movedim(place, -1) @ share).movedim(-1, place)
    return self


def _shares(side: int, count: int, like: Tensor) -> Tensor:
    """(side, count): what every value is of each mean."""
    place, window = torch.arange(side, device=like.device), torch.arange(count, device=like.device)
    first, last = window * side // count, -(-(window + 1) * side // count)
    inside = (place.unsqueeze(1) >= first) & (place.unsqueeze(1) < last)
    return inside.to(like.dtype) / (last - first).to(like.dtype)


def _is_flat(node: fx.Node) -> bool:
    return not arguments(node)["dims"]


MOVE_RULES = {
    aten.diagonal.default: Rule(diagonal),
    aten.roll.default: Rule(roll, _is_flat),
    aten.col2im.default: Rule(fold),
    aten.adaptive_avg_pool3d.default: Rule(adaptive_mean),
    aten._adaptive_avg_pool3d.default: Rule(adaptive_mean),
}
