"""One result for each picture, in order: what cannot be read, or is no number, is a Failure and stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.images import ImageError
from edgevit.prediction.picture import Picture
from edgevit.prediction.results import Failure, Prediction
from edgevit.runtimes.base import Session
from edgevit.runtimes.rows import run_rows
from edgevit.tasks.base import Answer, Row
from edgevit.tasks.classify import Classes, best
from edgevit.tasks.reading import Reading

X = TypeVar("X")
P = TypeVar("P", bound=Prediction)

Look = Callable[[Picture], X]  # ImageError for what is no picture
Tell = Callable[[Sequence[Picture], Sequence[X]], Iterable[P | None]]  # None for an answer that is no number


def one_by_one(ask: Callable[[Picture], P | None], found: Iterable[Picture | Failure]) -> Iterator[P | Failure]:
    """What ``ask`` makes of each picture."""
    waiting: _Waiting[P | None, P] = _Waiting(ask, lambda _, told: told, 1)
    return waiting.through(found)


def together(look: Look[X], tell: Tell[X, P], found: Iterable[Picture | Failure], count: int) -> Iterator[P | Failure]:
    """What ``tell`` makes of up to ``count`` pictures at a time, of which ``look`` keeps what it needs."""
    return _Waiting(look, tell, count).through(found)


class _Waiting(Generic[X, P]):
    """Pictures that were looked at and have no answer yet, and failures among them."""

    def __init__(self, look: Look[X], tell: Tell[X, P], count: int) -> None:
        self.look, self.tell, self.count = look, tell, count
        self.seen: list[X] = []
        self.queue: list[Picture | Failure] = []

    def through(self, found: Iterable[Picture | Failure]) -> Iterator[P | Failure]:
        for one in found:
            self.queue.append(self._looked(one) if isinstance(one, Picture) else one)
            if not self.seen or len(self.queue) >= self.count:
                yield from self._told()
        yield from self._told()

    def _looked(self, picture: Picture) -> Picture | Failure:
        try:
            self.seen.append(self.look(picture))
        except ImageError as error:
            return picture.failure(error)
        return picture

    def _told(self) -> Iterator[P | Failure]:
        queue, seen, self.queue, self.seen = self.queue, self.seen, [], []
        pictures = [one for one in queue if isinstance(one, Picture)]
        told = iter(self.tell(pictures, seen) if pictures else ())
        for one in queue:
            if isinstance(one, Picture):
                yield next(told) or one.failure("the model's output holds NaN or infinity; run edgevit verify")
            else:
                yield one


@dataclass(frozen=True)
class Looked:
    """A picture as one row of a model's input, and its height and width."""

    row: Array
    size: tuple[int, int]


def looked_at(reading: Reading, picture: Picture) -> Looked:
    """ImageError for what is no picture."""
    pixels = picture.pixels(reading.steps.pixel_channels)
    height, width = pixels.shape[:2]
    return Looked(reading.steps(pixels).astype(reading.image.dtype, copy=False), (height, width))


def read(session: Session, reading: Reading, looked: Sequence[Looked]) -> Iterator[tuple[Answer | None, Row]]:
    """The answer for each, None where it is no number, and the outputs that say it."""
    outputs = outputs_of(session, reading, looked)
    for index, one in enumerate(looked):
        row = {name: array[index] for name, array in outputs.items()}
        yield reading.answer(row, one.size), row


def outputs_of(session: Session, reading: Reading, looked: Sequence[Looked]) -> dict[str, Array]:
    """Those for pictures that fit into one call; a larger fixed batch is filled up with them."""
    rows = np.stack([one.row for one in looked])
    least = max(session.artifact.manifest.batch.min, len(rows))
    return run_rows(session, {reading.image.name: rows}, least)


def classes(scores: Array, labels: Sequence[str] | None, count: int) -> Classes | None:
    """The best of (classes,) logits; None where they are no numbers."""
    return Classes(best(scores, labels, count)) if np.isfinite(scores).all() else None


def told(kind: type[P], picture: Picture, answer: Answer | None, **more: Any) -> P | None:
    """What is said of a picture; None where there is no answer."""
    if answer is None:
        return None
    return kind(picture.name, answer, **more, frame=picture.frame, seconds=picture.seconds, pixels=picture.pixels)
