"""The artifact's source model, run eagerly in float32: the reference on build hosts. The one runtime with torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgevit.artifact import Array, Artifact
from edgevit.errors import BadArtifact, Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.source import RANDOM, create_model, state_sha256
from edgevit.runtimes.base import Session


class TorchSession(Session):
    """The source model in train form, on the CPU."""

    runtime, provider = "torch", "cpu"

    def __init__(self, artifact: Artifact, threads: int, module: nn.Module) -> None:
        super().__init__(artifact, threads)
        torch.set_num_threads(threads)
        self._module = module
        self.details = {"torch": torch.__version__}

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        preprocess = self.artifact.manifest.preprocess
        tensors = [torch.from_numpy(feeds[spec.name]) for spec in self.inputs]
        if preprocess is not None and preprocess.baked:
            tensors = [_normalise(tensor, preprocess) for tensor in tensors]
        with torch.inference_mode():
            found = self._module(*tensors)
        values = list(found.values()) if isinstance(found, Mapping) else found
        rows = [values] if isinstance(values, torch.Tensor) else list(values)
        return {spec.name: row.numpy() for spec, row in zip(self.outputs, rows, strict=True)}


def _normalise(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, as a baked graph does it."""
    mean, std = (torch.tensor(values) for values in (preprocess.mean, preprocess.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class TorchRuntime:
    """Rebuilds the source model from the manifest and checks that its weights are the exported ones."""

    name = "torch"
    can_profile = True

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """Unsupported when the source cannot be rebuilt, BadArtifact when its weights are others than at export."""
        if provider not in (None, "cpu"):
            raise Unsupported(f"the torch runtime runs on the cpu, not on {provider}", hint="leave --provider out")
        if options:
            raise UsageError(f"the torch runtime has no options, got {', '.join(options)}")
        return TorchSession(artifact, threads, rebuild(artifact))


def rebuild(artifact: Artifact) -> nn.Module:
    """The source module with the weights it was exported with, in eval mode."""
    model = artifact.manifest.model
    if model.source == "module":
        raise Unsupported(
            f"{artifact.path} was exported from a module in memory, which cannot be rebuilt from its manifest",
            hint="compare with another artifact instead: --against ARTIFACT",
        )
    pretrained = model.weights.origin == "timm pretrained"
    # ViTs resized at load carry a note in brackets behind the weights' name
    origin = model.weights.origin.partition(" (")[0]
    weights = None if pretrained or model.weights.origin == RANDOM else origin
    module = create_model(
        model.name, weights=weights, num_classes=model.classes, image_size=model.image_size, pretrained=pretrained
    )
    if state_sha256(module) != model.weights.state_sha256:
        raise BadArtifact(
            f"the weights that {model.weights.origin!r} gives for {model.name} now are not those of the export",
            hint="restore the file, or export again",
        )
    return module
