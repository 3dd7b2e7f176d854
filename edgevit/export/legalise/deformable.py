"""Deformable convolution: the map sampled where each tap of each window looks, then a product with the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgevit.export.legalise import Rule

DEFORM_CONV = "torchvision::deform_conv2d"  # by name: it is there only where torchvision was imported


def deform_conv2d(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor,
    stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
    groups: int, offset_groups: int, use_mask: bool,
) -> Tensor:  # fmt: skip
    """(B, C, H, W) with offsets (B, 2 G kh kw, h, w), (down, across) of each tap -> (B, out, h, w).

    G groups of channels look at places of their own; ``mask`` (B, G kh kw, h, w) multiplies what they see.
    """
    (batch, channels, *sides), (kernels, _, *kernel) = input.shape, weight.shape
    rows, columns = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    steps = ((stride_h, pad_h, dilation_h), (stride_w, pad_w, dilation_w))
    moved = offset.reshape(batch * offset_groups, taps, 2, rows * columns)
    places = [_starts(axis, kernel, (rows, columns), steps[axis], offset) + moved[:, :, axis] for axis in (0, 1)]
    # as F.grid_sample has them: -1 and 1 are the outer edges of the first and of the last pixel
    down, across = ((place + 0.5) * (2 / side) - 1 for place, side in zip(places, sides, strict=True))
    own = input.reshape(batch * offset_groups, channels // offset_groups, *sides)
    seen = torch.grid_sampler(own, torch.stack((across, down), -1), 0, 0, False)
    if use_mask:
        seen = seen * mask.reshape(batch * offset_groups, 1, taps, rows * columns)
    seen = seen.reshape(batch, groups, channels // groups * taps, rows * columns)
    found = weight.reshape(1, groups, kernels // groups, -1) @ seen
    return found.reshape(batch, kernels, rows, columns) + bias.reshape(1, -1, 1, 1)


def _starts(axis: int, kernel: list[int], sides: Any, step: tuple[int, int, int], like: Tensor) -> Tensor:
    """(taps, windows): where every tap of a window that does not move looks, along one axis."""
    stride, pad, dilation = step
    tap = torch.arange(kernel[axis]) * dilation - pad
    window = torch.arange(sides[axis]) * stride
    along = tap.reshape(-1, 1) + window
    if axis == 0:
        spread = along[:, None, :, None].expand(-1, kernel[1], -1, sides[1])
    else:
        spread = along[None, :, None, :].expand(kernel[0], -1, sides[0], -1)
    return spread.reshape(kernel[0] * kernel[1], -1).to(like.dtype)


DEFORMABLE_RULES = {DEFORM_CONV: Rule(deform_conv2d)}
