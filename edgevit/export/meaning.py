"""The task of a torch model: as was asked for, as it says, or as its outputs look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifact.manifest import BatchRange, TensorSpec
from edgevit.export.capture import output_spec, run
from edgevit.export.rows import Rows
from edgevit.models.eager.copying import copied
from edgevit.models.eager.features import are_features
from edgevit.models.eager.outputs import named_outputs
from edgevit.models.eager.promotion import in_full
from edgevit.models.macs import dry_run
from edgevit.models.spec import ModelSpec
from edgevit.request import ExportRequest
from edgevit.tasks.base import load_task
from edgevit.tasks.meaning import Meaning
from edgevit.tasks.segments import queries_among


def meaning_of(source: nn.Module, spec: ModelSpec, rows: Rows, request: ExportRequest) -> Meaning:
    """The task of a model, from what is known of it, else from one run on the first row."""
    asked = request.task or spec.task
    if asked is not None:
        return Meaning(load_task(asked), said=True)
    if spec.num_classes is not None:
        return Meaning(load_task("classify"), said=_is_published(spec) or bool(spec.labels or request.labels))
    if request.inputs is not None and request.labels:
        return Meaning(load_task("classify"), said=True)
    if request.inputs is not None:  # what is made of other things than images has no name here
        return Meaning(load_task("tensors"), said=True)
    arguments = tuple(torch.from_numpy(np.array(array[:1])) for array in rows.inputs.values())
    with in_full():
        result = run(copied(source), arguments)
    outputs = named_outputs(result)
    task = "embed" if are_features(source, outputs) else _guess(outputs, isinstance(result, Tensor), arguments)
    if request.labels:
        return Meaning(load_task(_labelled(task, outputs, len(request.labels))), said=True)
    return Meaning(load_task(task), said=False)


def _labelled(task: str, outputs: dict[str, Tensor], labels: int) -> str:
    """What it is for somebody who has names for so many classes."""
    if task in ("detect", "segment"):
        return task
    scores = [value for value in outputs.values() if value.is_floating_point() and value.ndim == 4]
    return "segment" if len(outputs) == 1 and any(one.shape[1] == labels > 1 for one in scores) else "classify"


def with_classes(source: nn.Module, spec: ModelSpec, request: ExportRequest) -> ModelSpec:
    """``spec`` with as many classes as an image gets scores, of a model that is said to be a classifier and says no
    number: its head may have no weights, or give its scores beside other outputs."""
    asked = request.task or spec.task
    if asked != "classify" or spec.num_classes is not None or spec.image_size is None:
        return spec
    result = dry_run(source, spec.image_size, spec.channels)
    if isinstance(result, Exception):  # the run on real rows says what it is
        return spec
    task = load_task(asked)
    outputs = _specs(named_outputs(result, task.alone))
    roles = task.roles(outputs)
    scores = next(one for one in outputs if roles[one.name] == "logits")
    return replace(spec, num_classes=scores.rows(1)[1])


def _specs(outputs: dict[str, Tensor]) -> list[TensorSpec]:
    return [output_spec(name, value, BatchRange(min=1, max=1)) for name, value in outputs.items()]


def _is_published(spec: ModelSpec) -> bool:
    return spec.source not in ("file", "module")


def _guess(outputs: dict[str, Tensor], alone: bool, arguments: tuple[Tensor, ...]) -> str:
    """The name of a task. In doubt "tensors": a wrong name is worse than none."""
    names, first = set(outputs), next(iter(outputs.values()))
    if {"boxes", "scores", "labels"} <= names or {"pred_boxes", "pred_logits"} <= names:
        return "detect"
    if names - {f"output_{index}" for index in range(len(names))} and queries_among(_specs(outputs)):
        return "segment"
    if alone and first.is_floating_point() and first.ndim == 2:
        return "embed"
    if alone and not first.is_floating_point() and first.dtype is not torch.bool and first.ndim == 3:
        return "segment"
    if alone and first.is_floating_point() and _is_picture(first, arguments):
        return "restore"
    return "tensors"


def _is_picture(value: Tensor, arguments: tuple[Tensor, ...]) -> bool:
    """Whether a model gives what it takes: one picture of three channels, of its size or a multiple of it."""
    if len(arguments) != 1 or value.ndim != 4 or arguments[0].ndim != 4:
        return False
    if value.shape[1] != 3 or arguments[0].shape[1] != 3:
        return False
    (height, width), (taken_height, taken_width) = value.shape[2:], arguments[0].shape[2:]
    return height % taken_height == 0 and width % taken_width == 0 and height // taken_height == width // taken_width
