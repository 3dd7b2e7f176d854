"""Sampling a map at computed places: four gathers, weighted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgevit.export.legalise import Rule

aten = torch.ops.aten
BILINEAR, NEAREST = 0, 1
ZEROS, BORDER, REFLECTION = 0, 1, 2


def grid_sampler(
    input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Tensor | Any:
    """``F.grid_sample`` of (B, C, H, W) at (B, h, w, 2), bilinear or nearest."""
    if input.ndim != 4 or interpolation_mode not in (BILINEAR, NEAREST):
        return NotImplemented
    batch, channels, high, wide = input.shape
    rows, columns = grid.shape[1:3]
    flat = grid.reshape(batch, rows * columns, 2)
    x = _inside(_unnormalised(flat[..., 0], wide, align_corners), wide, padding_mode, align_corners)
    y = _inside(_unnormalised(flat[..., 1], high, align_corners), high, padding_mode, align_corners)
    pick = nearest if interpolation_mode == NEAREST else bilinear
    return pick(input, x, y).reshape(batch, channels, rows, columns)


def _unnormalised(at: Tensor, size: int, align_corners: bool) -> Tensor:
    return (at + 1.0) * ((size - 1) / 2) if align_corners else ((at + 1.0) * size - 1.0) / 2


def _inside(at: Tensor, size: int, padding_mode: int, align_corners: bool) -> Tensor:
    if padding_mode == REFLECTION:
        low, span = (0.0, float(size - 1)) if align_corners else (-0.5, float(size))
        at = _reflected(at, low, span) if span else torch.zeros_like(at)
    return at if padding_mode == ZEROS else at.clamp(0.0, size - 1.0)


def _reflected(at: Tensor, low: float, span: float) -> Tensor:
    """A place folded back into [low, low + span] at both ends, as often as it takes."""
    away = (at - low).abs()
    turns = (away / span).floor()
    rest = away - turns * span
    odd = turns - (turns / 2).floor() * 2
    return odd * (span - rest) + (1.0 - odd) * rest + low


def bilinear(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, C, H, W) at pixels (B, P) -> (B, C, P); what lies outside is zero."""
    left, top = x.floor(), y.floor()
    found: Any = 0.0
    for down in (0.0, 1.0):
        for across in (0.0, 1.0):
            column, row = left + across, top + down
            weight = (1.0 - (x - column).abs()) * (1.0 - (y - row).abs())
            found = found + gathered(values, column, row) * weight.unsqueeze(1)
    return torch.as_tensor(found)


def nearest(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return gathered(values, x.round(), y.round())


def gathered(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, C, H, W) at whole places (B, P) -> (B, C, P), zero outside."""
    batch, channels, high, wide = values.shape
    column, row = x.clamp(0.0, wide - 1.0), y.clamp(0.0, high - 1.0)
    inside = ((x == column) & (y == row)).to(values.dtype)
    index = (row * wide + column).to(torch.int64).unsqueeze(1).expand(-1, channels, -1)
    return values.reshape(batch, channels, high * wide).gather(2, index) * inside.unsqueeze(1)


SAMPLING_RULES = {
    aten.grid_sampler.default: Rule(grid_sampler),
    aten.grid_sampler_2d.default: Rule(grid_sampler),
}
