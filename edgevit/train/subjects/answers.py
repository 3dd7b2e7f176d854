"""A model's outputs as its task names them, while it learns and where it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifact.manifest import Role, TensorSpec
from edgevit.data.labelled import LabelledData
from edgevit.errors import Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.eager.outputs import named_outputs
from edgevit.tasks.base import Asked, Task, load_task
from edgevit.tasks.metrics.base import meter_for
from edgevit.train.batches import Batches

_LEARNT: dict[str, Role] = {"segment": "masks", "restore": "picture"}  # the output that a loss is of, by task


def answer_of(result: Any, task: str) -> Tensor:
    """The output that is learned. Unsupported for a model that decides in training already, and has no gradient."""
    outputs = named_outputs(result, load_task(task).alone)
    specs = described(load_task(task), outputs)
    found = next((outputs[spec.name] for spec in specs if spec.role == _LEARNT[task]), None)
    if found is None or not found.is_floating_point():
        raise Unsupported(
            f"while it learns, the model gives no {_LEARNT[task]} of numbers",
            hint="let forward return scores in training, and labels in eval mode",
        )
    return found


def described(task: Task, outputs: dict[str, Tensor]) -> tuple[TensorSpec, ...]:
    """The outputs with their roles. Unsupported where they are no answers of the task."""
    specs = [
        TensorSpec(name=name, dtype=_dtype(value), shape=("batch", *value.shape[1:]), role="tensor")
        for name, value in outputs.items()
    ]
    roles = task.roles(specs)
    return tuple(spec.model_copy(update={"role": roles[spec.name]}) for spec in specs)


def _dtype(value: Tensor) -> Any:
    return "float32" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")


class HeldOut:
    """The figure of a model on images that it never learns from, by its task's own metric."""

    def __init__(
        self, task: Task, data: LabelledData, batches: Batches, preprocess: Preprocess, device: torch.device
    ) -> None:
        if data.targets is None:
            raise UsageError(f"{data.name} says nothing to judge by", hint="use another --data")
        self.task, self.data, self.targets, self.batches = task, data, data.targets, batches
        self.preprocess, self.device = preprocess, device
        self.sizes = [image.shape[:2] for image in data.images]

    @property
    def name(self) -> str:
        """The metric's."""
        return str(self._meter().name)

    def _meter(self) -> Any:
        meter = meter_for(self.task, self.data)
        if meter is None:
            raise UsageError(f"{self.data.name} is no data for {self.task.name}", hint="use another --data")
        return meter

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        meter, training = self._meter(), model.training
        model.eval()
        for images, rows in self.batches.ordered(64):
            outputs = named_outputs(model(images.to(self.device)), self.task.alone)
            specs = described(self.task, outputs)
            arrays = {name: value.cpu().numpy() for name, value in outputs.items()}
            for place, row in enumerate(rows.tolist()):
                one = {name: array[place] for name, array in arrays.items()}
                meter.take(one, self.targets[row], self._asked(specs, row))
        model.train(training)
        return float(meter.value())

    def _asked(self, specs: Sequence[TensorSpec], row: int) -> Asked:
        height, width = self.sizes[row]
        return Asked(tuple(specs), (height, width), self.preprocess, self.data.classes)


def numbered(data: LabelledData) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(N,) the row of every image, which stands for its truth in a batch."""
    return np.arange(len(data), dtype=np.int64)
