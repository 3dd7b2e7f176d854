"""What is said of one picture: its best classes, or why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.bundle.embedded import Answer
from edgevit.errors import EdgeVitError


@dataclass(frozen=True)
class Guess:
    """One class and its probability."""

    label: str
    index: int
    probability: float


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
    """The best classes of one picture, best first.

    doubts  sentences on the model that gave them
    """

    top: tuple[Guess, ...]
    doubts: tuple[str, ...] = field(default=(), kw_only=True)

    def record(self) -> dict[str, Any]:
        return {**super().record(), "top": [vars(guess) for guess in self.top]}

    def line(self) -> str:
        return f"{self.subject()}: " + ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in self.top)

    def notes(self) -> tuple[str, ...]:
        return self.doubts


@dataclass(frozen=True)
class BundlePrediction(Prediction):
    """What a bundle says: where it ran, how many of its sub-models answered, and which are missing."""

    answer: Answer
    where: str = "embedded"

    def record(self) -> dict[str, Any]:
        return {
            **super().record(),
            "where": self.where,
            "parts": self.answer.parts,
            "answered": self.answer.answered,
            "degraded": self.answer.degraded,
            "missing": [missing.record() for missing in self.answer.missing],
            "latency_ms": self.answer.latency_ms,
        }

    def line(self) -> str:
        return f"{super().line()}; {self.answer.sentence()}"

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{one.part} did not answer: {one.reason}" for one in self.answer.missing if not one.left_out)


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


def best(scores: Array, labels: Sequence[str] | None, count: int) -> tuple[Guess, ...]:
    """The ``count`` largest of (classes,) logits as probabilities. A class without a name is called by its index."""
    shifted = np.exp(scores.astype(np.float64) - scores.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple(Guess(labels[i] if labels else str(i), int(i), float(probabilities[i])) for i in order)
