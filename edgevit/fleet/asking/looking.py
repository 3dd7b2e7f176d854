"""One picture, asked of the fleet: the answer by the model's task, and what it was made from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.fleet.asking.answers import FleetAnswer
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.bus.messages import MAX_PAYLOAD
from edgevit.prediction.answering import Looked, classes, looked_at
from edgevit.prediction.picture import Picture
from edgevit.prediction.tiling import AT_ONCE, Tiling
from edgevit.tasks.base import Answer
from edgevit.tasks.reading import Reading


@dataclass(frozen=True)
class Looking:
    """How a fleet is asked about pictures.

    reading  of a single artifact; a bundle answers in classes
    labels   of those, and how many of them are named
    """

    session: FleetSession
    reading: Reading | None
    labels: Sequence[str] | None
    top: int

    @classmethod
    def of(cls, session: FleetSession, labels: Sequence[str] | None = None, top: int = 5) -> Looking:
        """Unsupported where the model takes no single image."""
        reading = Reading.of(session.artifact, labels, top) if session.artifact else None
        return cls(session, reading, labels or session.labels, top)

    def look(
        self, source: bytes | Array, pixels: Callable[[], Array], deadline_s: float, trace: str | None = None
    ) -> tuple[Answer | None, FleetAnswer]:
        """What is said of an image, encoded or (H, W, C) uint8, whose ``pixels`` are read where they are needed; None
        for what is no number. Of a model whose pictures keep their size all tiles are asked before the deadline.
        Raises as ``FleetSession.answer``."""
        reading = self.reading
        if reading is not None and (reading.task.draws or reading.sizes is not None):
            return self._seen(reading, source, pixels(), deadline_s, trace)
        answer = self.session.answer(source, deadline_s, trace=trace)
        if reading is None:
            return classes(answer.logits[0], self.labels, self.top), answer
        return self._read(reading, answer, reading.steps.size), answer

    def _seen(
        self, reading: Reading, source: bytes | Array, pixels: Array, deadline_s: float, trace: str | None
    ) -> tuple[Answer | None, FleetAnswer]:
        """As in one process: at the picture's own size as far as the model takes that, in tiles where it takes them."""
        size = (pixels.shape[0], pixels.shape[1])
        if Tiling.fits(reading):
            reading = reading.tiling(size)
            if reading.sizes is not None or any(np.greater(size, reading.steps.size)):
                return self._tiled(reading, pixels, deadline_s, trace)
        if reading.sizes is None:
            answer = self.session.answer(source, deadline_s, trace=trace)
            return self._read(reading, answer, size), answer
        reading = reading.seeing(size)
        row = looked_at(reading, Picture("the image", pixels)).row
        answer = self.session.answer(_filled(row[np.newaxis], self.session), deadline_s, trace=trace)
        return self._read(reading, answer, size), answer

    def _read(self, reading: Reading, answer: FleetAnswer, size: tuple[int, int]) -> Answer | None:
        """As the outputs that a node sends say it; those of a classifier beside its logits stay there."""
        row = {name: array[0] for name, array in answer.by_name(self.session.outputs).items()}
        sent = tuple(spec for spec in reading.outputs if spec.name in row)
        return replace(reading, outputs=sent).answer(row, size)

    def _tiled(
        self, reading: Reading, pixels: Array, deadline_s: float, trace: str | None
    ) -> tuple[Answer | None, FleetAnswer]:
        asking = _Tiles(self.session, time.monotonic() + deadline_s, trace)
        row = max(4 * math.prod(spec.rows(1)) for spec in (reading.image, *reading.outputs))
        answer = Tiling(asking, reading, max(1, min(AT_ONCE, MAX_PAYLOAD // row))).answer(pixels)
        latency_ms = sum(one.latency_ms for one in asking.answers)
        return answer, replace(asking.answers[-1], latency_ms=latency_ms)


@dataclass
class _Tiles:
    """Asks about one tile after another, all of them before ``until``."""

    session: FleetSession
    until: float
    trace: str | None
    answers: list[FleetAnswer] = field(default_factory=list)

    def __call__(self, looked: Sequence[Looked]) -> dict[str, Array]:
        rows, left_s = np.stack([one.row for one in looked]), max(0.001, self.until - time.monotonic())
        self.answers.append(self.session.answer(_filled(rows, self.session), left_s, trace=self.trace))
        return {name: array[: len(rows)] for name, array in self.answers[-1].by_name(self.session.outputs).items()}


def _filled(rows: Array, session: FleetSession) -> Array:
    """A fixed batch is filled up with the last row."""
    first = session.takes.image.shape[0]
    short = -len(rows) % (1 if first == "batch" else int(first))
    return np.concatenate([rows, np.repeat(rows[-1:], short, axis=0)])
