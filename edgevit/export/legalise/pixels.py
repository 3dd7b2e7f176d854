"""Pixel shuffles as reshapes and one permutation."""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.export.legalise import Rule

aten = torch.ops.aten


def pixel_shuffle(self: Tensor, upscale_factor: int) -> Tensor:
    """(…, C r², H, W) -> (…, C, H r, W r), in no more than six axes."""
    *lead, channels, high, wide = self.shape
    r = upscale_factor
    # rows of the map are merged with the channels first, so that no step has more than five axes beside one batch axis
    split = self.reshape(-1, r, r, high, wide).permute(0, 3, 1, 4, 2)
    return split.reshape(*lead, channels // (r * r), high * r, wide * r)


def pixel_unshuffle(self: Tensor, downscale_factor: int) -> Tensor:
    """(…, C, H r, W r) -> (…, C r², H, W)."""
    *lead, channels, high, wide = self.shape
    r = downscale_factor
    split = self.reshape(-1, high // r, r, wide // r, r).permute(0, 2, 4, 1, 3)
    return split.reshape(*lead, channels * r * r, high // r, wide // r)


def channel_shuffle(self: Tensor, groups: int) -> Tensor:
    batch, channels, *rest = self.shape
    return self.reshape(batch, groups, channels // groups, -1).transpose(1, 2).reshape(batch, channels, *rest)


PIXEL_RULES = {
    aten.pixel_shuffle.default: Rule(pixel_shuffle),
    aten.pixel_unshuffle.default: Rule(pixel_unshuffle),
    aten.channel_shuffle.default: Rule(channel_shuffle),
}
