"""Small models for int8, and rows to calibrate them on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifact.manifest import Array, BatchRange
from edgevit.export.base import Capture
from edgevit.export.capture import capture

ONE = BatchRange(min=1, max=1)


class Mixed(nn.Module):
    """A first convolution, one with a ReLU, a depthwise one, tokens, a shared layer, a head: (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(8, 12, 1)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.shared = nn.Linear(12, 12, bias=False)
        self.table = nn.Parameter(torch.randn(12, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.deep(torch.relu(self.wide(self.first(image))))
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        query, key, value = self.qkv(tokens).unflatten(2, (3, 1, 12)).permute(2, 0, 3, 1, 4)
        mixed = (torch.softmax(query @ key.transpose(-2, -1), -1) @ value).squeeze(1)
        tokens = self.shared(torch.tanh(self.shared(mixed + tokens)))
        logits: Tensor = self.head((tokens @ self.table).mean(1))
        return logits


def rows_of(count: int, seed: int = 0, sides: tuple[int, ...] = (3, 8, 8)) -> dict[str, Array]:
    return {"image": np.random.default_rng(seed).normal(size=(count, *sides)).astype(np.float32)}


def captured(module: nn.Module, batch: BatchRange = ONE, **rows: Any) -> Capture:
    torch.manual_seed(0)
    return capture(module, rows or rows_of(16), batch)


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()
