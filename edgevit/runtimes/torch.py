"""The artifact's source model, run eagerly in float32: the reference on build hosts. The one runtime with torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.source import BY_FACTORY, RANDOM, create_model, state_sha256
from edgevit.models.spec import spec_of
from edgevit.runtimes.base import Session

_NOT_REBUILT = {
    "module": "a module in memory, which cannot be rebuilt from its manifest",
    "onnx": "an ONNX file, which torch does not run",
}


class TorchSession(Session):
    """The source model in train form, on the CPU."""

    runtime, provider = "torch", "cpu"

    def __init__(self, artifact: Artifact, threads: int, module: nn.Module) -> None:
        super().__init__(artifact, threads)
        torch.set_num_threads(threads)
        self._module = module
        self.details = {"torch": torch.__version__}

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            found = self._module(*(self._tensor(spec, feeds[spec.name]) for spec in self.inputs))
        named = found if isinstance(found, Mapping) else None
        if named is not None and {spec.name for spec in self.outputs} <= set(named):
            rows = [named[spec.name] for spec in self.outputs]
        else:
            values = list(named.values()) if named is not None else found
            rows = [values] if isinstance(values, torch.Tensor) else list(values)
        if len(rows) != len(self.outputs):
            raise EdgeVitError(f"{self.artifact.path} lists {len(self.outputs)} outputs, its model gives {len(rows)}")
        return {spec.name: row.numpy() for spec, row in zip(self.outputs, rows, strict=True)}

    def _tensor(self, spec: TensorSpec, array: Array) -> torch.Tensor:
        """The model's own argument: floats as float32, a baked artifact's pixels normalised as its graph does it."""
        tensor = torch.from_numpy(np.array(array))  # a copy: torch refuses arrays that are read-only or run backwards
        preprocess = self.artifact.manifest.preprocess
        if preprocess is not None and preprocess.baked and spec.role == "image":
            return _normalise(tensor, preprocess)
        return tensor.float() if tensor.is_floating_point() else tensor


def _normalise(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, as a baked graph does it."""
    mean, std = (torch.tensor(values) for values in (preprocess.mean, preprocess.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class TorchRuntime:
    """Rebuilds the source model from the manifest and checks that its weights are the exported ones."""

    name = "torch"

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
    if how := _NOT_REBUILT.get(model.source):
        raise Unsupported(
            f"{artifact.path} was exported from {how}",
            hint="compare with another artifact instead: --against ARTIFACT",
        )
    module = _created(artifact)
    if state_sha256(module) != model.weights.state_sha256:
        raise BadArtifact(
            f"the weights that {model.weights.origin!r} gives for {model.name} now are not those of the export",
            hint="restore the file, or export again",
        )
    return module


def _created(artifact: Artifact) -> nn.Module:
    """The model as its name and weights give it; classes and image size are asked for only where they differ, because
    not every factory takes them."""
    model = artifact.manifest.model
    pretrained = model.weights.origin == f"{model.source} pretrained"
    weights = None if pretrained else _weights(model.weights.origin)
    module = create_model(model.name, weights=weights, pretrained=pretrained)
    spec = spec_of(module)
    classes = model.classes or 0  # a model without a head has none
    other_classes = spec is not None and spec.num_classes not in (None, classes)
    other_size = model.image_size is not None and spec is not None and spec.image_size != model.image_size
    if not other_classes and not other_size:
        return module
    return create_model(
        model.name,
        weights=weights,
        num_classes=classes if other_classes else None,
        image_size=model.image_size if other_size else None,
        pretrained=pretrained,
    )


def _weights(origin: str) -> str | None:
    """The weights argument behind a recorded origin. ViTs resized at load carry a note in brackets behind it."""
    if origin in (RANDOM, BY_FACTORY):
        return None
    noted = origin.endswith(")") and not Path(origin).exists()
    return (origin.rpartition(" (")[0] or origin) if noted else origin
