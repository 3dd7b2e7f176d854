"""What every metric is: it takes one image after the other, and gives figures at the end."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, Protocol

from edgevit.data.labelled import LabelledData
from edgevit.errors import UsageError
from edgevit.tasks.base import Asked, Row, Task

DROP = 0.01  # of a share: what lies on a border may change sides


class Meter(Protocol):
    """One metric, filled image by image; the order of the images makes no difference.

    name    as the field calls it: "mIoU"
    better  which way is good
    """

    name: str
    better: Literal["higher", "lower"]

    def take(self, row: Row, target: Any, asked: Asked) -> None:
        """The outputs for one image, and what is true of it; UsageError for a target that is of another image."""
        ...

    def value(self) -> float:
        """The figure; NothingToJudge where the images held nothing to go by."""
        ...

    def others(self) -> Mapping[str, float]:
        """Figures that are shown beside it, by name."""
        ...

    def allowed(self) -> float:
        """How far the figure of an artifact may lie from its model's on the same images."""
        ...


def meter_for(task: Task, data: LabelledData) -> Meter | None:
    """An empty meter for answers of ``task`` on what ``data`` says of its images; None where nothing of it tells.
    Classes of whole images are judged as accuracy where the answers are classes."""
    kind = data.targets.kind if data.targets is not None else "classes" if data.labels is not None else None
    place = task.meters.get(kind) if kind is not None else None
    if place is None:
        return None
    module, _, name = place.partition(":")
    meter: Meter = getattr(import_module(module), name)()
    return meter


class NothingToJudge(UsageError):
    """The images hold nothing that a metric could go by."""


def nothing(what: str) -> NothingToJudge:
    """The error of a metric that saw none of ``what`` it needs."""
    return NothingToJudge(f"no image of the data holds {what}", hint="use another --data")
