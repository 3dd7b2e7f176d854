"""A model on data that tells how good its answers are: the source at export, the artifact wherever it is verified."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.artifact.goodness import Quality
from edgevit.artifact.manifest import Array, TensorSpec, count_classes
from edgevit.data.classes import in_the_order_of
from edgevit.data.labelled import LabelledData
from edgevit.data.targets import Objects
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.tasks.base import Asked, Row, Task
from edgevit.tasks.metrics.base import Meter, meter_for

IMAGES = 500  # at most, evenly spread over what was held out
_BYTES = 64 << 20  # of outputs that are held at a time: of one image a map of 150 classes has 157 MB at 512²

Answers = Callable[[Array], Mapping[str, Array]]  # rows of the model's input -> its outputs by name


@dataclass(frozen=True)
class Judged:
    """A figure, and how far that of an equal model may lie from it."""

    quality: Quality
    allowed: float


@dataclass(frozen=True)
class Bench:
    """What answers are measured by, the same on both sides.

    outputs  the model's, with their roles
    steps    how an image becomes its input
    labels   names of its classes
    """

    task: Task
    outputs: tuple[TensorSpec, ...]
    steps: Preprocess
    labels: tuple[str, ...] | None

    def measure(self, answers: Answers, data: LabelledData, at_once: int | None = None) -> Judged | None:
        """The task's metric on all of ``data``; None where nothing that it says tells how good such answers are.

        ``at_once`` is how many images ``answers`` takes together; else as many as its outputs are small. UsageError for
        a truth that is of another image or of a class that the model does not know, and where there is nothing to
        judge by.
        """
        meter = meter_for(self.task, data)
        if meter is None:
            return None
        told = in_the_order_of(data, self.labels)
        for start in range(0, len(data), step := at_once or self._at_once()):
            self._take(meter, answers, told, start, min(start + step, len(data)))
        return _judged(meter, data)

    def _take(self, meter: Meter, answers: Answers, data: LabelledData, start: int, stop: int) -> None:
        steps = data.steps(self.steps)
        sizes: list[tuple[int, int]] = []
        outputs = answers(steps.batch(_noting(data.images[start:stop], sizes)))
        if data.sizes is not None:  # what is true of an image is so in its own pixels
            sizes = [(int(height), int(width)) for height, width in data.sizes[start:stop]]
        for index, size, row in zip(range(start, stop), sizes, _rows(outputs), strict=True):
            asked = Asked(self.outputs, size=size, steps=self.steps, labels=self.labels)
            meter.take(row, self._known(_truth(data, index), data), asked)

    def _known(self, truth: Any, data: LabelledData) -> Any:
        """The truth; UsageError where it holds a class that the model does not tell from others."""
        count = max(count_classes(self.outputs, self.task.name) or 0, len(self.labels or ()))
        if not count or data.targets is None or data.targets.kind not in ("masks", "objects"):
            return truth
        highest = int((truth.classes if isinstance(truth, Objects) else truth).max(initial=-1))
        if highest >= count:
            raise UsageError(
                f"{data.name} holds class {highest}; the model tells {count} apart, 0 to {count - 1}",
                hint="number the classes as the model does; in a mask, 255 is what counts for nothing",
            )
        return truth

    def _at_once(self) -> int:
        size = sum(math.prod(spec.rows(1)) for spec in self.outputs) * 4
        return max(1, min(50, _BYTES // max(1, size)))


def _noting(images: Iterable[Array], sizes: list[tuple[int, int]]) -> Iterator[Array]:
    """The images, one at a time: a photo can be larger than all that a model makes of it. Their sizes are noted."""
    for image in images:
        sizes.append((image.shape[0], image.shape[1]))
        yield image


def _rows(outputs: Mapping[str, Array]) -> Iterator[Row]:
    count = len(next(iter(outputs.values())))
    return ({name: value[index] for name, value in outputs.items()} for index in range(count))


def _truth(data: LabelledData, index: int) -> object:
    if data.targets is not None:
        return data.targets[index]
    return int(np.asarray(data.labels)[index])


def _judged(meter: Meter, data: LabelledData) -> Judged | None:
    """None where the figure is no number: such outputs are a failure of their own."""
    value, others = meter.value(), dict(meter.others())
    if not all(map(math.isfinite, (value, *others.values()))):
        return None
    found = Quality(
        data=data.name, metric=meter.name, value=value, better=meter.better, others=others, images=len(data)
    )
    return Judged(found, meter.allowed())
