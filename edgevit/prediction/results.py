"""What is said of one picture: its best classes, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgevit.artifact.manifest import Array
from edgevit.bundle.embedded import Fused
from edgevit.errors import EdgeVitError, Unsupported
from edgevit.tasks.base import Answer, load_task
from edgevit.tasks.classify import Classes, Guess


@dataclass(frozen=True)
class Result:
    """What is said of one picture, by its name.

    frame    of a video or a camera, counted from 0; None for a picture
    seconds  since the first frame; None too where a video has no time stamps
    """

    image: str
    frame: int | None = field(default=None, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)

    def record(self) -> dict[str, Any]:
        """The object that ``--json`` lists."""
        moment = {} if self.frame is None else {"frame": self.frame, "seconds": self.seconds}
        return {"image": self.image, **moment}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The lines of a table that are about it."""
        return [self.record()]

    def subject(self) -> str:
        """Which picture, for people."""
        if self.frame is None:
            return self.image
        return f"{self.image} frame {self.frame}" + ("" if self.seconds is None else f" ({self.seconds:.3f} s)")

    def line(self) -> str:
        """All of it, for people."""
        raise NotImplementedError

    def notes(self) -> tuple[str, ...]:
        """What a reader should be told once, whatever the number of images."""
        return ()


@dataclass(frozen=True)
class Prediction(Result):
    """What a model says of one picture.

    answer   by the model's task: ``Classes``, ``ClassMap``, ``Finds``, ``Restored``, ``Distances``, ``Embedding`` or
             ``Numbers``, all with ``record()``, ``words()`` and ``drawn(image)``
    doubts   sentences on the model that gave it
    pixels   reads those of the picture; None where they are kept by nobody
    written  the file that the answer was drawn to
    outputs  the model's own, one row of each by name, where they are wanted
    """

    answer: Answer
    doubts: tuple[str, ...] = field(default=(), kw_only=True)
    pixels: Callable[[], Array] | None = field(default=None, kw_only=True, repr=False, compare=False)
    written: str | None = field(default=None, kw_only=True)
    outputs: Mapping[str, Array] | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def top(self) -> tuple[Guess, ...]:
        """The best classes, best first. Unsupported for the answer of a model that is no classifier."""
        if not isinstance(self.answer, Classes):
            raise Unsupported("this is no answer of classes", hint="read .answer, or .record()")
        return self.answer.top

    def drawn(self) -> Array | None:
        """The answer as a picture, (height, width, 3) uint8: over the one that was asked about, or instead of it. None
        where there is none to see; Unsupported where the pixels were not kept, ImageError where a file is gone."""
        if self.pixels is None:
            raise Unsupported(f"the pixels of {self.subject()} are kept by nobody", hint="stream() keeps them")
        return self.answer.drawn(self.pixels())

    def record(self) -> dict[str, Any]:
        return {**self._named(), **self.answer.record()}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [{**self._named(), **row} for row in self.answer.rows() or [{}]]

    def _named(self) -> dict[str, Any]:
        return {**super().record(), **({} if self.written is None else {"picture": self.written})}

    def line(self) -> str:
        return f"{self.subject()}: {self.answer.words()}" + (f"; picture {self.written}" if self.written else "")

    def notes(self) -> tuple[str, ...]:
        return self.doubts


@dataclass(frozen=True)
class BundlePrediction(Prediction):
    """What a bundle says: where it ran, how many of its sub-models answered, and which are missing."""

    gathered: Fused
    where: str = "embedded"

    def record(self) -> dict[str, Any]:
        missing = [one.record() for one in self.gathered.missing]
        return {**super().record(), **self._parts(), "missing": missing, "latency_ms": self.gathered.latency_ms}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        missing = " ".join(one.part for one in self.gathered.missing)
        parts = {**self._parts(), "missing": missing, "latency_ms": self.gathered.latency_ms}
        return [{**row, **parts} for row in super().rows()]

    def _parts(self) -> dict[str, Any]:
        counts = {name: getattr(self.gathered, name) for name in ("parts", "answered", "degraded")}
        return {"where": self.where, **counts}

    def line(self) -> str:
        return f"{super().line()}; {self.gathered.sentence()}"

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{one.part} did not answer: {one.reason}" for one in self.gathered.missing if not one.left_out)


@dataclass(frozen=True)
class Failure(Result):
    """A picture, a folder or a video that could not be read, and why."""

    error: str

    def record(self) -> dict[str, Any]:
        return {**super().record(), "error": self.error}

    def line(self) -> str:
        return f"error: {self.error}"


def failed(name: str, error: EdgeVitError | str, *, frame: int | None = None, seconds: float | None = None) -> Failure:
    """The failure of what is called ``name``, which the sentence begins with."""
    said = str(error) + (f"; {error.hint}" if isinstance(error, EdgeVitError) and error.hint else "")
    return Failure(name, said if said.startswith(name) else f"{name}: {said}", frame=frame, seconds=seconds)


def classified(top: int) -> tuple[str, ...]:
    """The columns of a table of a bundle's ``BundlePrediction``."""
    return gathered_columns(load_task("classify").columns((), top))


def gathered_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Those of a table of answers, with where they come from."""
    return *columns, "where", "parts", "answered", "degraded", "missing", "latency_ms"
