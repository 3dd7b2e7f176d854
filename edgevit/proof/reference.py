"""What an artifact's outputs are compared with, and how far each may lie from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Array, OutputBound
from edgevit.errors import UsageError


@dataclass(frozen=True)
class Reference:
    """n rows of every input, and the outputs they must give.

    tolerance  bound on max abs error / max abs reference of every output without a bound of its own
    noise      what that tolerance comes from, when known
    bounds     of single outputs
    clear      of outputs that were decided: which values no noise explains away, True where they must agree
    UsageError unless all arrays have the same rows, one or more, there is an output, and the tolerance is a number.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    tolerance: float
    noise: float | None = None
    bounds: Mapping[str, OutputBound] = field(default_factory=dict)
    clear: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {len(array) if array.ndim else 0 for array in (*self.inputs.values(), *self.outputs.values())}
        if not self.inputs or not self.outputs or len(counts) != 1 or 0 in counts:
            raise UsageError("a reference needs inputs and outputs with the same number of rows, at least one")
        if not 0 < self.tolerance < float("inf"):
            raise UsageError(f"a tolerance must be a positive number, got {self.tolerance}")

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def bound(self, name: str) -> OutputBound:
        """Of one output."""
        return self.bounds.get(name) or OutputBound(tolerance=self.tolerance, noise=self.noise)


def write_reference(path: Path, reference: Reference) -> None:
    """The .npz that ``read_reference`` reads: arrays alone, what bounds them goes another way."""
    kinds = {"in": reference.inputs, "out": reference.outputs, "clear": reference.clear}
    arrays = {f"{kind}.{name}": array for kind, found in kinds.items() for name, array in found.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_reference(
    path: Path, tolerance: float, noise: float | None, bounds: Mapping[str, OutputBound] | None = None
) -> Reference:
    """The reference whose arrays ``write_reference`` wrote."""
    found: dict[str, dict[str, Array]] = {"in": {}, "out": {}, "clear": {}}
    with np.load(path, allow_pickle=False) as stored:
        for name in stored.files:
            kind, _, own = name.partition(".")
            found[kind][own] = stored[name]
    return Reference(found["in"], found["out"], tolerance, noise, bounds or {}, found["clear"])
