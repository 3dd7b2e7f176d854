"""Which of the classes an image shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.tasks.base import Apart, Asked, Row, named, unfit


@dataclass(frozen=True)
class Guess:
    """One class and its probability."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classes:
    """The likeliest classes, the best first."""

    top: tuple[Guess, ...]

    def record(self) -> dict[str, Any]:
        return {"top": [vars(guess) for guess in self.top]}

    def words(self) -> str:
        return ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in self.top)

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One, with a group of columns for each class."""
        return [
            {f"{name}_{rank}": value for rank, guess in enumerate(self.top, 1) for name, value in vars(guess).items()}
        ]

    def drawn(self, image: Array) -> Array | None:
        return None

    def apart(self, other: Classes, image: Array) -> Apart:
        theirs = {guess.index: guess.probability for guess in other.top}
        gap = max(abs(guess.probability - theirs.get(guess.index, 0.0)) for guess in self.top)
        if self.top[0].index == other.top[0].index:
            return Apart(gap, f"the same best class, probabilities within {gap:.1e}")
        return Apart(1 + gap, f"another best class: {other.top[0].label} for {self.top[0].label}")


class Classify:
    """(B, classes) logits."""

    name = "classify"
    alone = "logits"
    draws = False
    meters: ClassVar[Mapping[str, str]] = {}

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        """The output called logits, else the only one."""
        scores = [spec for spec in outputs if len(spec.shape) == 2 and spec.dtype.startswith("float")]
        chosen = next((spec for spec in scores if spec.name == "logits"), scores[0] if len(scores) == 1 else None)
        if chosen is None:
            raise unfit(self.name, outputs, "one output of (batch, classes) scores, or one called logits")
        return {**named(outputs, {"features": "features"}), chosen.name: "logits"}

    def decode(self, row: Row, asked: Asked) -> Classes:
        return Classes(best(asked.need(self.name, row, "logits"), asked.labels, asked.top))

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        return tuple(f"{name}_{rank}" for rank in range(1, top + 1) for name in ("label", "index", "probability"))


def best(scores: Array, labels: Sequence[str] | None, count: int) -> tuple[Guess, ...]:
    """The ``count`` largest of (classes,) logits as probabilities. A class without a name is called by its index."""
    probabilities = probabilities_of(scores)
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple(Guess(labels[i] if labels else str(i), int(i), float(probabilities[i])) for i in order)


def probabilities_of(logits: Array) -> Array:
    """(…, classes) logits as probabilities in float64."""
    shifted: Array = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares
