"""Whether what a model returns is features: vectors and maps that a head would be put on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

# What libraries make of a model to give its features, by package and class: nothing is imported to ask.
_EXTRACTORS = {
    *(("timm", f"Feature{kind}Net") for kind in ("List", "Dict", "Hook", "Getter", "Graph")),
    ("transformers", "BackboneMixin"),
    ("torchvision", "IntermediateLayerGetter"),
    ("torchvision", "DualGraphModule"),  # of create_feature_extractor
}
_ENCODED = {"last_hidden_state", "pooler_output"}  # of transformers' encoders without a head


def are_features(source: nn.Module, outputs: Mapping[str, Tensor]) -> bool:
    """Whether ``source`` says that it extracts features or has no classes, or its ``outputs`` are a pyramid."""
    if not all(value.is_floating_point() and value.ndim >= 2 for value in outputs.values()):
        return False
    kinds = {(kind.__module__.partition(".")[0], kind.__qualname__) for kind in type(source).__mro__}
    headless = getattr(source, "num_classes", None) == 0
    return bool(kinds & _EXTRACTORS) or headless or set(outputs) <= _ENCODED or _is_pyramid(list(outputs.values()))


def _is_pyramid(maps: list[Tensor]) -> bool:
    """Maps (B, C, H, W) that get smaller and deeper, as the stages of a backbone do. Those of a neck or of a detector's
    heads all have as many channels."""
    if len(maps) < 2 or any(value.ndim != 4 for value in maps):
        return False
    shrinks = all(a.shape[2] >= b.shape[2] and a.shape[3] >= b.shape[3] for a, b in pairwise(maps))
    deepens = all(a.shape[1] <= b.shape[1] for a, b in pairwise(maps))
    first, last = maps[0].shape, maps[-1].shape
    return shrinks and deepens and last[1] > first[1] and last[2] < first[2] and last[3] < first[3]
