"""Sliding windows as gathers, and adaptive pooling of a fixed size as windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgevit.export.legalise import Rule

aten = torch.ops.aten


def im2col(
    self: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """(B, C, H, W) -> (B, C kh kw, windows): the rows of all windows gathered, then their columns."""
    if self.ndim == 3:
        return im2col(self[None], kernel_size, dilation, padding, stride)[0]
    down, across = padding
    padded = F.pad(self, (across, across, down, down)) if down or across else self
    for axis in (0, 1):
        padded = padded.index_select(
            2 + axis, _places(padded, 2 + axis, kernel_size[axis], dilation[axis], stride[axis])
        )
    batch, channels = self.shape[:2]
    (kh, kw), (high, wide) = kernel_size, (padded.shape[2 + axis] // kernel_size[axis] for axis in (0, 1))
    split = padded.reshape(-1, kh, high, kw, wide).permute(0, 1, 3, 2, 4)
    return split.reshape(batch, channels * kh * kw, high * wide)


def _places(self: Tensor, axis: int, kernel: int, dilation: int, stride: int) -> Tensor:
    """Where the windows read an axis: the first value of each of them, then the second."""
    count = (self.shape[axis] - dilation * (kernel - 1) - 1) // stride + 1
    taps, starts = (torch.arange(size, device=self.device) for size in (kernel, count))
    return (taps.unsqueeze(1) * dilation + starts * stride).reshape(-1)


def adaptive_max_pool2d(self: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor] | Any:
    """Windows of one size where the map is a multiple of the output; the places are not written out."""
    (high, wide), (down, across) = self.shape[-2:], output_size
    if high % down or wide % across:
        return NotImplemented
    kernel = [high // down, wide // across]
    found: tuple[Tensor, Tensor] = aten.max_pool2d_with_indices.default(self, kernel, kernel)
    return found


WINDOW_RULES = {aten.im2col.default: Rule(im2col), aten.adaptive_max_pool2d.default: Rule(adaptive_max_pool2d)}
