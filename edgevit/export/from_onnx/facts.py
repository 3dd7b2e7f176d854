"""What an ONNX file says about itself: edgevit's own words, those of Ultralytics, or none."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from edgevit.foreign import parse_json
from edgevit.images import Preprocess

OURS = ("model", "edgevit", "weights", "preprocess", "labels")  # keys that we write ourselves
_LONGEST = 1 << 20  # characters of a text that is parsed
_BY_ULTRALYTICS = "preprocessed as Ultralytics does it: pixels of 0 to 1, no mean and no std"


@dataclass(frozen=True)
class Facts:
    """What is known of a model's images and classes; None where nothing says so.

    preprocess  without the size, which the graph and the request decide
    source      a sentence for the record: whose words these are
    """

    preprocess: Preprocess | None = None
    size: tuple[int, int] | None = None
    labels: tuple[str, ...] | None = None
    source: str | None = None


def facts_of(metadata: Mapping[str, str]) -> Facts:
    """What the file's metadata says. Words that cannot be read say nothing."""
    if "edgevit" in metadata:
        steps = _ours(metadata.get("preprocess", ""))
        return Facts(steps, steps.size if steps else None, labels_of(metadata.get("labels", "")))
    labels, size = labels_of(metadata.get("names", "")), _size(metadata.get("imgsz", ""))
    if "ultralytics" not in metadata.get("author", "").lower():
        return Facts(None, size, labels)
    steps = Preprocess(
        size=size or (640, 640),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop="center" if metadata.get("task") == "classify" else "letterbox",
        crop_pct=1.0,
        interpolation="bilinear",
    )
    return Facts(steps, size, labels, _BY_ULTRALYTICS)


def _ours(text: str) -> Preprocess | None:
    try:
        return Preprocess.model_validate_json(text)
    except ValidationError:
        return None


def labels_of(text: str) -> tuple[str, ...] | None:
    """Class names written as a list, or as a dict by their numbers, in JSON or in Python; None for anything else."""
    found = _value(text)
    if isinstance(found, dict):
        try:
            numbered = {int(number): name for number, name in found.items()}
        except (TypeError, ValueError):
            return None
        if sorted(numbered) != list(range(len(numbered))):
            return None
        found = [numbered[number] for number in range(len(numbered))]
    if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str) for name in found):
        return None
    return tuple(name.strip() for name in found) if all(name.strip() for name in found) else None


def _size(text: str) -> tuple[int, int] | None:
    """Height and width from "[640, 480]" or "640"."""
    found = _value(text)
    sides = [found, found] if type(found) is int else found
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(type(side) is int for side in sides):
        return None
    height, width = sides
    return (height, width) if height > 0 and width > 0 else None


def _value(text: str) -> Any:
    """A JSON or Python literal; None for what is neither."""
    if not text or len(text) > _LONGEST:
        return None
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
