"""The engine's layers as the inspector tells them on the device, and the times that TensorRT's profiler measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgevit.module_paths import module_of, shared_module
from edgevit.runtimes.base import LayerTime

LAYERS = "layers.json"
_DTYPES = {"float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16"}


@dataclass(frozen=True)
class InspectedLayer:
    """One layer of the opened engine; ``reads`` and ``writes`` are types, empty where the engine keeps names only."""

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """One layer of the engine as the builder listed it: its kind, and the PyTorch module whose work it does."""

    kind: str
    module: str


def parse_inspection(text: str) -> list[InspectedLayer]:
    """The inspector's JSON, of TensorRT 10 ("Format/Datatype"), 11 ("DataType") and RTX ("Datatype")."""
    return [_inspected(layer) for layer in json.loads(text).get("Layers", [])]


def _inspected(layer: str | Mapping[str, Any]) -> InspectedLayer:
    if isinstance(layer, str):
        return InspectedLayer(layer, "", (), ())
    reads = [*layer.get("Inputs", []), *layer.get("Constants", [])]
    return InspectedLayer(
        name=str(layer.get("Name", "")),
        kind=str(layer.get("LayerType", "")),
        reads=_types(reads),
        writes=_types(layer.get("Outputs", [])),
    )


def _types(tensors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    keys = ("DataType", "Datatype", "Format/Datatype")
    said = (next((str(tensor[key]) for key in keys if key in tensor), "") for tensor in tensors)
    return tuple(sorted({_dtype(text) for text in said if text}))


def _dtype(text: str) -> str:
    words = text.lower().split()
    return next((_DTYPES[word] for word in words if word in _DTYPES), " ".join(words))


def read_kernels(folder: Path) -> dict[str, Kernel]:
    """Engine layer -> kernel, from the artifact's ``layers.json``; empty where the builder listed nothing."""
    path = folder / LAYERS
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text("utf-8"))
    return {layer["name"]: Kernel(layer["kind"], shared_module(layer["modules"])) for layer in stored["engine"]}


def layer_times(samples: Mapping[str, Sequence[float]], kernels: Mapping[str, Kernel], unit: str) -> list[LayerTime]:
    """Medians in the order the layers ran. ``samples``: layer -> its times in ms, one per run."""
    return [
        LayerTime(
            name=name,
            op=kernels[name].kind if name in kernels else "",
            module=kernels[name].module if name in kernels else module_of(name),
            unit=unit,
            ms=median(times),
        )
        for name, times in samples.items()
    ]
