"""ED-ViT's two kinds of network: the sub-model that is an expert in some classes, and the head that fuses them all.

Source: ED-ViT (arXiv 2410.11650). Its authors released no code and its text leaves much open, so this is a
reconstruction: which facts are known and what was chosen is in docs/reference/edvit.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.models.families.vit import VisionTransformer


class SubModel(nn.Module):
    """A pruned ViT with the part's classes: image (B, C, H, W) -> ``features`` (B, D) and ``logits`` (B, classes + 1).

    ``features`` is the class token after the last LayerNorm: what travels to the fusion head. Output 0 of ``logits``
    means "none of mine", output i the part's i-th class. The deploy form comes from the ViT inside.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    @property
    def feature_size(self) -> int:
        """Numbers per image that the fusion head receives."""
        return self.vit.config.dim

    @property
    def classes(self) -> int:
        """How many classes the part is an expert in; ``logits`` has one more."""
        return self.vit.config.num_classes - 1

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.vit.forward_features(image)
        return {"features": features, "logits": self.vit.head(features)}


class FusionHead(nn.Module):
    """All parts' features to the logits of all classes, with any part absent.

    ``forward(features_0, …, features_{N-1}, present)``: (B, D_i) each, and ``present`` (B, N) of 0 and 1 -> (B, V).
    Features are standardised by the stored statistics, then multiplied by their column of ``present``: an absent part
    looks like one that saw the average image, and the tower reads the mask itself too, so it can tell the two apart.
    What an absent part's input holds does not matter, as long as it is finite.

    Args:
        sizes: D_i of every part, in order
        classes: V
        shrink: width of each of the tower's two hidden layers relative to the one before (λ of the paper)
    """

    fold_kinds: ClassVar[tuple[str, ...]] = ("standardisation into the first layer",)
    mean: Tensor  # (ΣD,)
    std: Tensor  # (ΣD,)

    def __init__(self, sizes: Sequence[int], classes: int, shrink: float = 0.5) -> None:
        super().__init__()
        self.sizes, self.classes = tuple(sizes), classes
        total = sum(self.sizes)
        widths = [total + len(self.sizes)]
        for _ in range(2):
            widths.append(max(classes, math.ceil(widths[-1] * shrink)))
        self.register_buffer("mean", torch.zeros(total))
        self.register_buffer("std", torch.ones(total))
        self.fc1, self.fc2 = nn.Linear(widths[0], widths[1]), nn.Linear(widths[1], widths[2])
        self.out = nn.Linear(widths[2], classes)

    def fit_statistics(self, features: Sequence[Tensor]) -> None:
        """Store mean and standard deviation of the parts' features, (images, D_i) each. A constant feature keeps 1."""
        whole = torch.cat(list(features), dim=1).double()
        std = whole.std(dim=0, correction=0)
        self.mean.copy_(whole.mean(dim=0))
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, *inputs: Tensor) -> Tensor:
        features, present = inputs[:-1], inputs[-1]
        means, stds = torch.split(self.mean, list(self.sizes)), torch.split(self.std, list(self.sizes))
        standard = [(x - means[i]) / stds[i] * present[:, i : i + 1] for i, x in enumerate(features)]
        return self.tower(torch.cat([*standard, present], dim=1))

    def tower(self, x: Tensor) -> Tensor:
        """(B, ΣD + N) -> (B, V)."""
        out: Tensor = self.out(F.gelu(self.fc2(F.gelu(self.fc1(x)))))
        return out

    def fused(self) -> nn.Module:
        return DeployFusionHead(self)


class DeployFusionHead(nn.Module):
    """``FusionHead`` without its statistics: 1 / std is in the first layer's columns for the features, and -mean / std
    in its columns for ``present``, which are read exactly when the part is there."""

    def __init__(self, source: FusionHead) -> None:
        super().__init__()
        total = sum(source.sizes)
        weight = source.fc1.weight.detach()
        scaled = weight[:, :total] / source.std
        shift = torch.stack(
            [part.sum(dim=1) for part in torch.split(scaled * source.mean, list(source.sizes), dim=1)], dim=1
        )
        self.fc1 = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.fc1.weight = nn.Parameter(torch.cat([scaled, weight[:, total:] - shift], dim=1))
        self.fc1.bias = nn.Parameter(source.fc1.bias.detach().clone())
        self.fc2, self.out = source.fc2, source.out

    def forward(self, *inputs: Tensor) -> Tensor:
        features, present = inputs[:-1], inputs[-1]
        masked = [x * present[:, i : i + 1] for i, x in enumerate(features)]
        x = torch.cat([*masked, present], dim=1)
        out: Tensor = self.out(F.gelu(self.fc2(F.gelu(self.fc1(x)))))
        return out
