"""Class names that a user gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgevit import render
from edgevit.artifact.manifest import Manifest, TensorSpec, count_classes
from edgevit.errors import UsageError
from edgevit.foreign import read_json, read_text


def read_labels(path: Path | None) -> tuple[str, ...] | None:
    """Class names from a text file (one a line) or JSON (a list, or {index: name}); None for no file."""
    if path is None:
        return None
    what, hint = "a list of labels", "one label a line, or JSON: a list, or {index: name}"
    is_json = path.suffix.lower() == ".json"
    found = read_json(path, what, hint=hint) if is_json else read_text(path, what, hint=hint).strip().splitlines()
    if isinstance(found, dict):
        found = [found.get(str(index)) for index in range(len(found))]
    if not isinstance(found, list) or not found or not all(isinstance(label, str) and label.strip() for label in found):
        raise UsageError(f"{path} does not name every class", hint=hint)
    return tuple(label.strip() for label in found)


def check_labels(labels: Sequence[str] | None, classes: int | str | None) -> None:
    """UsageError where ``labels`` are of another number; what does not say one takes any."""
    if labels is not None and classes is not None and len(labels) != classes:
        raise UsageError(
            f"{render.counted(len(labels), 'label')} for {classes} classes", hint="one label per class, in order"
        )


def check_labels_for(outputs: Sequence[TensorSpec], task: str, labels: Sequence[str] | None) -> None:
    """The same for what gives ``outputs``. Of queries "nothing" may have a name, too, or be none of the scores."""
    classes = count_classes(outputs, task)
    queries = any(spec.role == "logits" and len(spec.shape) == 3 for spec in outputs)
    if not (queries and classes is not None and labels is not None and len(labels) == classes + 1):
        check_labels(labels, classes)


def check_labels_of(manifest: Manifest, labels: Sequence[str] | None) -> None:
    """UsageError where ``labels`` are of another number than a model's classes, or it names none."""
    if labels is None:
        return
    if not {spec.role for spec in manifest.outputs} & {"logits", "masks", "labels"}:
        raise UsageError(f"answers of the task {manifest.model.task} name no classes", hint="leave the labels out")
    if manifest.class_count() is None and manifest.labels is not None:
        check_labels(labels, len(manifest.labels))
    check_labels_for(manifest.outputs, manifest.model.task, labels)
