"""Features of the sub-models on all images, computed once: what the fusion head learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgevit.models.families.vit import VisionTransformer
from edgevit.train.augment import Augment
from edgevit.train.batches import Batches

_CHUNK = 256

Told = Callable[[float], None]
"""Told the share that is done."""


def untold(share: float) -> None:
    """Nobody asked."""


@dataclass(frozen=True)
class Features:
    """``parts[i]`` is (N, D_i), the class tokens of sub-model i; ``labels`` (N,) of all classes; ``trunk`` (N, V), the
    trunk's logits where they are known."""

    parts: tuple[Tensor, ...]
    labels: Tensor
    trunk: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


def copies_of(batches: Batches, views: int, seed: int, told: Told = untold) -> Iterator[Tensor]:
    """The images in order, chunk by chunk: as they are, then ``views`` augmented copies of all, which ``seed`` alone
    decides."""
    augment = Augment()
    for view in range(1 + views):
        generator = torch.Generator().manual_seed((seed << 20) + view)
        seen = 0
        for images, _ in batches.ordered(_CHUNK):
            yield augment(images, generator) if view else images
            seen += len(images)
            told((view + seen / len(batches)) / (1 + views))


@torch.no_grad()
def features_of(
    sub: nn.Module, batches: Batches, device: torch.device, *, views: int = 0, seed: int = 0, told: Told = untold
) -> Tensor:
    """((1 + views) · N, D) class tokens of a sub-model: of the images, then of their augmented copies.

    All sub-models see the same copies. A sub-model has learnt its training images by heart; what the fusion head meets
    later looks more like what it makes of the copies.
    """
    sub.to(device).eval()
    copies = copies_of(batches, views, seed, told)
    return torch.cat([sub(images.to(device))["features"].float().cpu() for images in copies])


@torch.no_grad()
def tokens_of(
    trunk: VisionTransformer, batches: Batches, device: torch.device, *, views: int, seed: int, told: Told = untold
) -> Tensor:
    """((1 + views) · N, D) class tokens of the trunk, for the same copies."""
    trunk.to(device).eval()
    copies = copies_of(batches, views, seed, told)
    return torch.cat([trunk.forward_features(images.to(device)).cpu() for images in copies])


@torch.no_grad()
def answers_of(
    trunk: VisionTransformer, batches: Batches, device: torch.device, *, views: int, seed: int, told: Told = untold
) -> Tensor:
    """((1 + views) · N, V) logits of the trunk, for the same copies."""
    logits: Tensor = trunk.head(tokens_of(trunk, batches, device, views=views, seed=seed, told=told).to(device))
    return logits.cpu()


def gather(parts: Sequence[Tensor], labels: Tensor, trunk: Tensor | None = None) -> Features:
    """Features of all parts with their labels, repeated for every augmented copy, and the trunk's logits."""
    return Features(tuple(parts), labels.repeat(len(parts[0]) // len(labels)), trunk)
