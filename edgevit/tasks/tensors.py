"""Outputs of which nothing is known but that they are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from edgevit.artifact.manifest import Array, Role, TensorSpec
from edgevit.precisions import error_of
from edgevit.tasks.base import Apart, Asked, Row, named


@dataclass(frozen=True)
class Numbers:
    """The outputs in figures: shape, type, least, mean and largest value of each."""

    row: Row

    @cached_property
    def figures(self) -> dict[str, dict[str, Any]]:
        """By output."""
        return {name: _figures(value) for name, value in self.row.items()}

    def record(self) -> dict[str, Any]:
        return {"outputs": self.figures}

    def words(self) -> str:
        return "; ".join(
            f"{name} {'×'.join(map(str, found['shape']))} from {found['min']:.4g} to {found['max']:.4g}"
            for name, found in self.figures.items()
        )

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One for each output."""
        return [
            {**found, "output": name, "shape": "×".join(map(str, found["shape"]))}
            for name, found in self.figures.items()
        ]

    def drawn(self, image: Array) -> Array | None:
        return None

    def apart(self, other: Numbers, image: Array) -> Apart:
        gap = max(
            (error_of(*(one.row[name].astype(np.float64) for one in (other, self))) for name in self.row), default=0.0
        )
        return Apart(gap, f"at most {gap:.1e} of the largest value apart")


class Tensors:
    """Any outputs."""

    name = "tensors"
    alone = "output"
    draws = False
    meters: ClassVar[Mapping[str, str]] = {}

    def roles(self, outputs: Sequence[TensorSpec]) -> dict[str, Role]:
        return named(outputs, {"logits": "logits", "features": "features"})

    def decode(self, row: Row, asked: Asked) -> Numbers:
        return Numbers(row)

    def columns(self, outputs: Sequence[TensorSpec], top: int) -> tuple[str, ...]:
        return "output", "shape", "dtype", "min", "mean", "max"


def _figures(value: Array) -> dict[str, Any]:
    figures = {"min": value.min(), "mean": value.mean(), "max": value.max()} if value.size else {}
    return {
        "shape": list(value.shape),
        "dtype": str(value.dtype),
        **{name: float(figures.get(name, 0.0)) for name in ("min", "mean", "max")},
    }
