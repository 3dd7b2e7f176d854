"""The folder on disk: metadata, the same bytes for the same model, and a list of its operations."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgevit.artifact.manifest import TensorSpec
from edgevit.export.base import Capture
from edgevit.export.coreml.options import CoreMlOptions
from edgevit.export.coreml.precision import Layer
from edgevit.export.coreml.quiet import ct, silence

ENTRY = "model.mlpackage"
LAYERS = "layers.json"

_PROGRAM = Path("Data/com.apple.CoreML/model.mlmodel")
_DATED = "com.github.apple.coremltools.conversion_date"
_NAMES = uuid.UUID("6f2a3f0e-3c1b-5d0a-9c57-0d5f1c6a7b42")  # namespace of the identifiers in Manifest.json


def describe(spec: Any, capture: Capture, options: CoreMlOptions) -> None:
    """Write metadata into the specification: author, licence, version, labels, preprocessing, what goes in and out."""
    about = spec.description.metadata
    given = capture.metadata
    about.author = options.author
    about.license = options.license
    about.versionString = options.version or f"edgevit {given.get('edgevit', 'unknown')}"
    about.shortDescription = f"{given.get('model', type(capture.module).__name__)}, exported and proved by edgevit"
    about.userDefined.pop(_DATED, None)
    for key, value in sorted({**given, "compute_units": options.compute_units}.items()):
        about.userDefined[f"edgevit.{key}"] = value
    for features, specs in ((spec.description.input, capture.inputs), (spec.description.output, capture.outputs)):
        described = {one.name: one for one in specs}
        for feature in features:
            feature.shortDescription = _sentence(described[feature.name], options)


def _sentence(spec: TensorSpec, options: CoreMlOptions) -> str:
    shape = spec.shown().replace("×", " x ")
    if spec.role == "image" and options.image_input:
        return f"RGB picture of {spec.shape[1]} x {spec.shape[2]} (height x width); normalised inside"
    if spec.role == "image" and spec.dtype == "uint8":
        return f"RGB pixels, 0 to 255, {shape}; normalised inside"
    if spec.role == "image":
        return f"preprocessed image, {shape}; edgevit.preprocess in the metadata says how"
    if spec.role == "logits":
        return f"logits, {shape}; edgevit.labels in the metadata names the classes"
    return f"{spec.role}, {shape}"


def save(spec: Any, weights: str, folder: Path) -> Path:
    """Write ``model.mlpackage``; the same specification and weights always give the same bytes."""
    package = folder / ENTRY
    with silence():
        ct.models.utils.save_spec(spec, str(package), weights_dir=weights)
    (package / _PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))
    _name_items(package / "Manifest.json")
    return package


def _name_items(manifest: Path) -> None:
    """Random identifiers replaced by ones that follow from what they name.

    A folder without a file is no item: the weights of a model that has none, which no copy by files would carry.
    """
    read = json.loads(manifest.read_text("utf-8"))
    items = read["itemInfoEntries"].items()
    read["itemInfoEntries"] = {
        old: item for old, item in items if not _is_empty(manifest.parent / "Data" / item["path"])
    }
    named = {old: str(uuid.uuid5(_NAMES, item["path"])) for old, item in read["itemInfoEntries"].items()}
    read["itemInfoEntries"] = dict(sorted((named[old], item) for old, item in read["itemInfoEntries"].items()))
    read["rootModelIdentifier"] = named[read["rootModelIdentifier"]]
    manifest.write_text(json.dumps(read, indent=4) + "\n", "utf-8")


def _is_empty(item: Path) -> bool:
    if item.is_file() or any(item.iterdir()):
        return False
    item.rmdir()
    return True


def read_spec(package: Path) -> Any:
    """The specification as it lies on disk."""
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString((package / _PROGRAM).read_bytes())
    return spec


def write_layers(folder: Path, layers: Sequence[Layer]) -> None:
    """``layers.json``: every operation with its type and PyTorch module."""
    rows: list[Mapping[str, str | None]] = [asdict(layer) for layer in layers]
    (folder / LAYERS).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
