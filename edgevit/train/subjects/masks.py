"""The class of every pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.data.targets import IGNORE, Targets
from edgevit.images import Preprocess
from edgevit.train.augment import Augment, moved_labels
from edgevit.train.options import TrainOptions
from edgevit.train.subjects.answers import answer_of
from edgevit.train.subjects.base import Array, Truth

# Scenes show things at many places and sizes already; and an erased pixel would keep its class.
_GENTLE = Augment(degrees=8.0, scale=0.1, shear=0.08, shift=0.05, erase=0.0)
_COUNTED = 1000  # masks that say how rare a class is
_MOST = 3.0  # weight of a class that is hardly ever seen


class Masks:
    """Cross entropy over the pixels that count; images and masks are moved together.

    Rare classes weigh a little more, by the fourth root of how rare they are: mIoU counts every class alike, and a
    scene is mostly background. Weights as large as the root make whole blobs of what is rare.
    """

    shown: ClassVar[int] = 64_000

    def __init__(self, targets: Targets, preprocess: Preprocess, classes: int, options: TrainOptions) -> None:
        self.options = options
        self.augment = replace(_GENTLE, hflip=options.hflip) if options.augment else None
        self.truth = Truth(targets, lambda mask: seen(mask, preprocess))
        self.weights = balanced(self.truth[torch.arange(min(len(targets), _COUNTED))], classes)

    def view(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        masks = self.truth[rows].to(images.device)
        if self.augment is None:
            return images, masks.long()
        transforms = self.augment.transforms(len(images), generator).to(images)
        return self.augment.moved(images, transforms, generator), moved_labels(masks, transforms)

    def loss(self, model: nn.Module, images: Tensor, truth: Tensor, rows: Tensor) -> Tensor:
        scores = answer_of(model(images), "segment")
        if scores.shape[2:] != truth.shape[1:]:  # heads of many segmenters answer for every fourth pixel
            scores = F.interpolate(scores, size=truth.shape[1:], mode="bilinear", align_corners=False)
        weights, smoothing = self.weights.to(scores), self.options.smoothing
        return F.cross_entropy(scores, truth, weights, ignore_index=IGNORE, label_smoothing=smoothing)


def balanced(masks: Tensor, classes: int) -> Tensor:
    """(classes,) weights of the classes in (N, h, w) masks: the fourth root of the median count over each one's own."""
    counts = torch.bincount(masks[masks != IGNORE].flatten(), minlength=classes).float()
    usual = counts[counts > 0].median() if counts.any() else counts.new_ones(())
    return (usual / counts.clamp(min=1)).pow(0.25).clamp(max=_MOST)


def seen(mask: Array, preprocess: Preprocess) -> Array:
    """(H, W) classes over an image -> (h, w) int16 over what the model sees of it: each pixel takes the class that lies
    under its middle, ``IGNORE`` beside the image."""
    top, left, bottom, right = preprocess.window(*mask.shape)
    rows, inside_rows = _under(preprocess.size[0], top, bottom, mask.shape[0])
    columns, inside_columns = _under(preprocess.size[1], left, right, mask.shape[1])
    found = np.where(np.outer(inside_rows, inside_columns), mask[np.ix_(rows, columns)], IGNORE)
    return found.astype(np.int16)


def _under(count: int, first: float, last: float, length: int) -> tuple[Array, Array]:
    middle = first + (np.arange(count) + 0.5) * (last - first) / count
    return np.clip(np.floor(middle).astype(np.int64), 0, length - 1), (middle >= 0) & (middle < length)
