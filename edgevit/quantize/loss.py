"""What a plan's integers cost: its answers beside those of the float model, on images that it was not found on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgevit.artifact.goodness import AGREEMENT, DIFFERENCE, Loss, Quality
from edgevit.artifact.manifest import Array
from edgevit.artifact.shelf import Named
from edgevit.data.classes import Indices, class_indices
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.precisions import in_blocks
from edgevit.quantize.calibration import Held
from edgevit.tasks.metrics.base import NothingToJudge, meter_for
from edgevit.tasks.metrics.measuring import Bench

CHUNK = 50
Run = Callable[[Mapping[str, Array]], Named]  # rows -> what is answered


@dataclass
class Apart:
    """Sums over all outputs so far."""

    difference: float = 0.0
    size: float = 0.0
    kl: float = 0.0
    same: int = 0
    rows: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])  # of the floats, of the integers

    def take(self, floats: Named, integers: Named, logits: str | None, labels: Array | None) -> None:
        for name, rows in floats.items():
            for due, got in zip(rows, integers[name], strict=True):
                for want, have in in_blocks(due, got):
                    self.difference += float(((have.astype(np.float64) - want) ** 2).sum())
                    self.size += float((want.astype(np.float64) ** 2).sum())
        self.rows += len(next(iter(floats.values())))
        if logits is not None:
            self._classes(np.asarray(floats[logits]), np.asarray(integers[logits]), labels)

    def _classes(self, floats: Array, integers: Array, labels: Array | None) -> None:
        before, after = floats.argmax(-1), integers.argmax(-1)
        self.same += int((before == after).sum())
        due, got = _log_softmax(floats), _log_softmax(integers)
        self.kl += float((np.exp(due) * (due - got)).sum())
        if labels is not None:
            for place, found in enumerate((before, after)):
                self.right[place] += int((found == labels).sum())

    @property
    def rms(self) -> float:
        return float(np.sqrt(self.difference / self.size)) if self.size else float(self.difference > 0)


@dataclass(frozen=True)
class Scales:
    """What the loss is weighed on.

    held    the images; None: ``inputs``, the rows of the proof
    logits  the output that says the class, where one does
    bench   of the task's metric
    classes how many the logits tell apart
    """

    inputs: Mapping[str, Array]
    data: str
    held: Held | None
    preprocess: Preprocess | None
    logits: str | None
    bench: Bench | None
    classes: int | None

    def weigh(self, floats: Run, integers: Run) -> Loss:
        """The loss of integers, by the task's metric where the data tells it."""
        return self._by_metric(floats, integers) or self._by_answers(floats, integers)

    def _by_metric(self, floats: Run, integers: Run) -> Loss | None:
        """None where nothing that the data says tells how good such answers are."""
        if self.bench is None or self.held is None or meter_for(self.bench.task, self.held.images) is None:
            return None
        apart = Apart()

        def compared(rows: Mapping[str, Array]) -> Named:
            got = integers(rows)
            apart.take(floats(rows), got, self.logits, None)
            return got

        if (before := self._quality(floats)) is None or (after := self._quality(compared)) is None:
            return None
        worse = (after.value - before.value) * (1 if before.better == "lower" else -1)
        share = before.better == "higher" and 0 <= before.value <= 1
        drop = 100 * worse / (1.0 if share else abs(before.value) or 1.0)
        return self._loss(apart, before.metric, before.value, after.value, drop)

    def _quality(self, run: Run) -> Quality | None:
        def answers(rows: Array) -> dict[str, Array]:
            return {name: np.asarray(values) for name, values in run({"image": rows}).items()}

        if self.bench is None or self.held is None:
            return None
        try:
            found = self.bench.measure(answers, self.held.images)
        except NothingToJudge:
            return None
        return None if found is None else found.quality

    def _by_answers(self, floats: Run, integers: Run) -> Loss:
        labels, apart = self._labels(), Apart()
        for start, rows in self._rows():
            cut = None if labels is None else labels[start : start + len(next(iter(rows.values())))]
            apart.take(floats(rows), integers(rows), self.logits, cut)
        if self.logits is None:
            return self._loss(apart, DIFFERENCE, 0.0, apart.rms, 100 * apart.rms)
        if labels is None:
            return self._loss(apart, AGREEMENT, 1.0, share := apart.same / apart.rows, 100 * (1 - share))
        before, after = (count / apart.rows for count in apart.right)
        return self._loss(apart, "top-1", before, after, 100 * (before - after))

    def _loss(self, apart: Apart, metric: str, floats: float, integers: float, drop: float) -> Loss:
        kl = None if self.logits is None else max(0.0, apart.kl / apart.rows)
        return Loss(
            data=self.data, images=apart.rows, metric=metric, floats=floats, integers=integers, drop=drop,
            rms=apart.rms, kl=kl,
        )  # fmt: skip

    def _labels(self) -> Indices | None:
        if self.held is None or self.logits is None or self.bench is None:
            return None
        try:
            return class_indices(self.held.images, self.bench.labels, self.classes)
        except UsageError:
            return None

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Array]]]:
        if self.held is None or self.preprocess is None:
            yield 0, self.inputs
            return
        images = self.held.images
        steps = images.steps(self.preprocess)
        for start in range(0, len(images), CHUNK):
            yield start, {"image": steps.batch(list(images.images[start : start + CHUNK]))}


def _log_softmax(logits: Array) -> Array:
    exact = logits.astype(np.float64)
    shifted = exact - exact.max(axis=-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
