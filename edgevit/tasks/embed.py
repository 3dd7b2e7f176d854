"""What an image is like: a vector, or maps of vectors, for search, clustering and heads that come later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.precisions import error_of
from edgevit.tasks.base import Apart, Asked, Row, unfit


@dataclass(frozen=True)
class Embedding:
    """One vector, the shapes of all outputs beside it.

    vector  float32; of a map the mean over its places
    """

    vector: Array
    shapes: dict[str, tuple[int, ...]]

    def record(self) -> dict[str, Any]:
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"embedding": [float(value) for value in self.vector], "shapes": shapes}

    def words(self) -> str:
        numbers = " ".join(f"{value:.3g}" for value in self.vector[:4])
        more = " …" if len(self.vector) > 4 else ""
        return f"{len(self.vector)} numbers of length {float(np.linalg.norm(self.vector)):.4g}: {numbers}{more}"

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [{f"value_{number}": float(value) for number, value in enumerate(self.vector, 1)}]

    def drawn(self, image: Array) -> Array | None:
        return None

    def apart(self, other: Embedding, image: Array) -> Apart:
        mine, theirs = self.vector.astype(np.float64), other.vector.astype(np.float64)
        lengths = float(np.linalg.norm(mine) * np.linalg.norm(theirs))
        cosine = float(mine @ theirs) / lengths if lengths else float(np.array_equal(mine, theirs))
        gap = error_of(theirs, mine)
        return Apart(gap, f"cosine {cosine:.7f}, at most {gap:.1e} of the largest value apart")


class Embed:
    """(B, n) vectors, (B, tokens, n) or (B, n, height, width) maps: one output or several."""

    name = "embed"
    alone = "features"
    draws = False
    meters: ClassVar[Mapping[str, str]] = {"classes": "edgevit.tasks.metrics.vectors:Probe"}

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        if not all(spec.dtype.startswith("float") and len(spec.shape) >= 2 for spec in outputs):
            raise unfit(self.name, outputs, "vectors or maps of floats")
        return dict.fromkeys((spec.name for spec in outputs), "features")

    def decode(self, row: Row, asked: Asked) -> Embedding:
        last = row[asked.outputs[-1].name]  # of several maps the deepest
        axes = {1: (), 2: (0,), 3: (1, 2)}.get(last.ndim, tuple(range(1, last.ndim)))
        return Embedding(
            np.asarray(last.mean(axis=axes) if axes else last, np.float32),
            {name: value.shape for name, value in row.items()},
        )

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        shape = outputs[-1].shape
        length = shape[2] if len(shape) == 3 else shape[1]
        return tuple(f"value_{number}" for number in range(1, int(length) + 1))
