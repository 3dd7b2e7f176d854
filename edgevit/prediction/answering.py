"""One result for each picture, in order: what cannot be read, or is no number, is a Failure and stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import Unsupported
from edgevit.images import ImageError
from edgevit.prediction.picture import Picture
from edgevit.prediction.results import Failure, Prediction
from edgevit.runtimes.base import Session
from edgevit.runtimes.rows import run_rows

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


def row_of(session: Session, picture: Picture) -> Array:
    """The picture as one row of the model's input."""
    manifest = session.artifact.manifest
    image, preprocess = manifest.image_input(), manifest.preprocess
    if image is None or preprocess is None:
        raise Unsupported(f"{session.artifact.path} is not an image classifier")
    return preprocess(picture.pixels()).astype(image.dtype, copy=False)


def scores_of(session: Session, rows: Sequence[Array]) -> Array:
    """(N, classes) logits of rows that fit into one call; a larger fixed batch is filled up with them."""
    manifest = session.artifact.manifest
    image, logits = manifest.image_input(), manifest.logits_output()
    if image is None or logits is None:
        raise Unsupported(f"{session.artifact.path} is not an image classifier")
    scores: Array = run_rows(session, {image.name: np.stack(rows)}, max(manifest.batch.min, len(rows)))[logits.name]
    return scores


def told(kind: type[P], picture: Picture, scores: Array, top: Any, **more: Any) -> P | None:
    """The answer of that kind from (classes,) logits, ``top`` being what makes guesses of them; None where they are no
    numbers."""
    if not np.isfinite(scores).all():
        return None
    return kind(picture.name, top(scores), **more, frame=picture.frame, seconds=picture.seconds)
