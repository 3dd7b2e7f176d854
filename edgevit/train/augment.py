"""Augmentation for small images, on whole batches of tensors: fast on a CPU, and the same for the same generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augment:
    """How far an image may be changed without changing its class; the defaults suit digits, letters and signs.

    degrees     rotation to either side
    scale       zoom by a factor of 1 ± scale, apart for width and height
    shear       sideways slant, as a fraction of the height
    shift       move by a fraction of the side
    brightness, contrast   added, and multiplied as 1 ± contrast; in units of the normalised image
    erase       chance that a rectangle of up to ``erase_side`` of each side becomes the mean colour
    hflip       mirror half of the images
    """

    degrees: float = 12.0
    scale: float = 0.12
    shear: float = 0.12
    shift: float = 0.08
    brightness: float = 0.1
    contrast: float = 0.2
    erase: float = 0.2
    erase_side: float = 0.3
    hflip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of (B, C, H, W) normalised images; all randomness comes from ``generator`` (on the CPU)."""
        return self.moved(images, self.transforms(len(images), generator).to(images), generator)

    def moved(self, images: Tensor, transforms: Tensor, generator: torch.Generator) -> Tensor:
        """The same by ``transforms`` that were drawn before, for what must move along."""
        images = self._light(move(images, transforms), generator)
        return self._erase(images, generator) if self.erase else images

    def transforms(self, count: int, generator: torch.Generator) -> Tensor:
        """(B, 2, 3) maps from output to input positions, both in -1..1."""
        draw = _uniform(6, count, generator)
        angle = draw[0] * math.radians(self.degrees)
        wide, high = 1 + draw[1] * self.scale, 1 + draw[2] * self.scale
        if self.hflip:
            wide = wide * torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
        sin, cos, slant = angle.sin(), angle.cos(), draw[3] * self.shear
        across = torch.stack([cos * wide, (slant * cos - sin) * high, 2 * self.shift * draw[4]], dim=1)
        down = torch.stack([sin * wide, (slant * sin + cos) * high, 2 * self.shift * draw[5]], dim=1)
        return torch.stack([across, down], dim=1)

    def _light(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draw = _uniform(2, len(images), generator).to(images)[:, :, None, None, None]
        return images * (1 + draw[0] * self.contrast) + draw[1] * self.brightness

    def _erase(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[-2:]
        draw = torch.rand(5, len(images), generator=generator).to(images.device)
        top, left = draw[1] * height, draw[2] * width
        bottom, right = top + draw[3] * self.erase_side * height, left + draw[4] * self.erase_side * width
        rows = torch.arange(height, device=images.device)[None, :, None]
        columns = torch.arange(width, device=images.device)[None, None, :]
        inside = (rows >= top[:, None, None]) & (rows < bottom[:, None, None])
        inside = inside & (columns >= left[:, None, None]) & (columns < right[:, None, None])
        hit = inside & (draw[0] < self.erase)[:, None, None]
        return images.masked_fill(hit[:, None], 0.0)


def move(images: Tensor, transforms: Tensor) -> Tensor:
    """(B, C, H, W) images sampled at ``transforms`` (B, 2, 3) of their positions; the border is continued outwards."""
    grid = F.affine_grid(transforms, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def moved_labels(labels: Tensor, transforms: Tensor) -> Tensor:
    """(B, H, W) whole numbers moved as ``move`` moves images, each place taking the nearest; int64."""
    grid = F.affine_grid(transforms, [len(labels), 1, *labels.shape[1:]], align_corners=False)
    values = labels[:, None].to(transforms)  # whole numbers below 2²⁴ are exact in float32
    found = F.grid_sample(values, grid, mode="nearest", padding_mode="border", align_corners=False)
    return found[:, 0].long()


def mixed(images: Tensor, targets: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv 1710.09412): each image and its (B, classes) target take up to ``share`` of another's."""
    order = torch.randperm(len(images), generator=generator).to(images.device)
    part = (torch.rand(len(images), generator=generator) * share).to(images)
    pixels = torch.lerp(images, images[order], part[:, None, None, None])
    return pixels, torch.lerp(targets, targets[order], part[:, None])


def _uniform(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """(rows, count) numbers in -1..1."""
    return torch.rand(rows, count, generator=generator) * 2 - 1
