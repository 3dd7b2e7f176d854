"""What an artifact's outputs are compared with, and how far each may lie from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Array, OutputBound
from edgevit.artifact.sampling import Sampled
from edgevit.artifact.shelf import Named, Rows, load_rows, save_rows
from edgevit.errors import UsageError
from edgevit.precisions import largest, scale_of


@dataclass(frozen=True)
class Reference:
    """n rows of every input, and the outputs they must give.

    tolerance  bound on max abs error / max abs reference of every output without a bound of its own
    noise      what that tolerance comes from, when known
    bounds     of single outputs
    clear      of outputs that were decided: which values no noise explains away, True where they must agree
    samples    outputs of whose rows only a sample is known; ``clear`` is then of the sample
    UsageError unless all arrays have the same rows, one or more, there is an output, and the tolerance is a number.
    """

    inputs: Mapping[str, Array]
    outputs: Named
    tolerance: float
    noise: float | None = None
    bounds: Mapping[str, OutputBound] = field(default_factory=dict)
    clear: Named = field(default_factory=dict)
    samples: Mapping[str, Sampled] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {len(array) if array.ndim else 0 for array in (*self.inputs.values(), *self.known.values())}
        if not self.inputs or not self.known or len(counts) != 1 or 0 in counts:
            raise UsageError("a reference needs inputs and outputs with the same number of rows, at least one")
        if not 0 < self.tolerance < float("inf"):
            raise UsageError(f"a tolerance must be a positive number, got {self.tolerance}")

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def known(self) -> Named:
        """All that is known of every output: its rows, or samples of them."""
        return {**self.outputs, **{name: one.values for name, one in self.samples.items()}}

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a whole row of an output."""
        return self.samples[name].shape if name in self.samples else self.outputs[name].shape[1:]

    def scale(self, name: str) -> float:
        """The largest magnitude of an output, which its errors are a share of; 1 where all of it is zero."""
        if name in self.samples:
            return scale_of(self.samples[name].sample.scale)
        return scale_of(max(map(largest, self.outputs[name])))

    def bound(self, name: str) -> OutputBound:
        """Of one output."""
        return self.bounds.get(name) or OutputBound(tolerance=self.tolerance, noise=self.noise)


def write_reference(path: Path, reference: Reference) -> None:
    """The .npz that ``read_reference`` reads: arrays alone, and where those lie that are on a shelf. What bounds them
    goes another way."""
    kinds = {"in": reference.inputs, "out": reference.outputs, "clear": reference.clear}
    save_rows(path, {f"{kind}.{name}": rows for kind, found in kinds.items() for name, rows in found.items()})


def read_reference(
    path: Path, tolerance: float, noise: float | None, bounds: Mapping[str, OutputBound] | None = None
) -> Reference:
    """The reference whose arrays ``write_reference`` wrote."""
    found: dict[str, dict[str, Rows]] = {"in": {}, "out": {}, "clear": {}}
    for key, rows in load_rows(path).items():
        kind, _, name = key.partition(".")
        found[kind][name] = rows
    inputs = {name: np.asarray(rows) for name, rows in found["in"].items()}
    return Reference(inputs, found["out"], tolerance, noise, bounds or {}, found["clear"])
