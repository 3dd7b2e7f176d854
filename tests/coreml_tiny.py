"""A transformer small enough to convert in a second, for the tests of the Core ML target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgevit.artifact.manifest import Array, BatchRange
from edgevit.export.base import Built, Capture, Context
from edgevit.export.capture import capture
from edgevit.export.coreml.exporter import CoreMlExporter
from edgevit.export.coreml.options import CoreMlOptions
from edgevit.export.coreml.package import read_spec
from edgevit.runtimes.coreml.program import load

ONE, RANGE = BatchRange(min=1, max=1), BatchRange(min=1, max=4)


class Attention(nn.Module):
    """``whole`` calls PyTorch's fused attention; otherwise the same is written out."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(16, 16) for _ in range(4))
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.whole:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = torch.softmax(q @ k.transpose(-2, -1) * 8**-0.5, dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Vit(nn.Module):
    """Patches, attention, LayerNorm, tanh-GELU, a residual stream and a mean. ``gain`` multiplies one activation."""

    def __init__(self, gain: float = 1.0, whole: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16), nn.LayerNorm(16)
        self.attn, self.fc1, self.fc2 = Attention(whole), nn.Linear(16, 32), nn.Linear(32, 16)
        self.act, self.head = Scaled(gain), nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = x + self.attn(self.norm1(x))
        x = x + self.fc2(self.act(F.gelu(self.fc1(self.norm2(x)), approximate="tanh")))
        return self.head(x.mean(1))


class Scaled(nn.Module):
    """x · gain / gain: nothing but a large value in between."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.gain) / self.gain if self.gain != 1.0 else x


def images(rows: int = 16, channels: int = 3) -> Array:
    return np.random.default_rng(0).standard_normal((rows, channels, 16, 16)).astype(np.float32)


def captured(
    module: nn.Module | None = None, batch: BatchRange = ONE, inputs: dict[str, Array] | None = None
) -> Capture:
    metadata = {"model": "tiny", "edgevit": "1.2.3", "labels": json.dumps(list("abcde"))}
    return capture(module or Vit(), inputs or {"image": images()}, batch, alone="logits", metadata=metadata)


def build(
    found: Capture, folder: Path, precision: str = "fp32", context: Context | None = None, **options: Any
) -> Built:
    return CoreMlExporter().write(
        found, folder, precision=precision, options=CoreMlOptions(**options), context=context or Context()
    )


def description(folder: Path) -> Any:
    """The saved specification."""
    return read_spec(folder / "model.mlpackage")


def layers(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "layers.json").read_text())


def kinds(folder: Path) -> list[str]:
    return [row["op"] for row in layers(folder)]


def run(folder: Path, array: Array) -> Array:
    """The saved package by the reference evaluator."""
    return load(folder / "model.mlpackage").run({"image": array})["logits"]


def eager(module: nn.Module, array: Array) -> Array:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(array)).numpy()
