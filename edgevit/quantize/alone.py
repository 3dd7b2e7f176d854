"""What every operator of a file's integers makes alone of what its plan gives it, held against what the plan makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.errors import ParityFailed
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import Array, Layer, QuantPlan

EXACT = 1e-5  # of the largest value: what float32 makes of an integer sum and its scale
# Of values on a grid: kernels scale an integer sum to the next grid by another product of floats, which puts what lies
# within a float's rounding of the border to the other side. One in a thousand is a hundred times what that makes.
ASTRAY = 1e-3
# Of float results of an engine that rounds its own way: one input in 50,000 lies that near to a border, and thousands
# make one result. Rounding otherwise altogether (down, not to the nearest) moves them all.
MOVED = 0.25

Layers = Mapping[str, tuple[Array, Array]]  # "NAME#2" is the second operator that multiplies by NAME
# places (x, y) of a file and what is given to each -> what the engine makes of it between them
Pieces = Callable[[Sequence[tuple[str, str]], Iterable[Array]], Iterator[Array]]


def write_layers(path: Path, layers: Layers) -> None:
    """As a file, for the process that proves them."""
    names = list(layers)
    arrays = {f"{kind}:{place}": layers[name][kind] for place, name in enumerate(names) for kind in (0, 1)}
    np.savez(path, names=np.array(json.dumps(names)), **arrays)  # type: ignore[arg-type]


def read_layers(path: Path) -> Layers:
    """Weight -> what its operator is given and makes of that."""
    with np.load(path, allow_pickle=False) as stored:
        names = json.loads(str(stored["names"]))
        return {name: (stored[f"0:{place}"], stored[f"1:{place}"]) for place, name in enumerate(names)}


def held_alone(operators: Sequence[Operator], plan: QuantPlan, layers: Layers, pieces: Pieces) -> Tally:
    """How far operators are from their plan, each run alone. ParityFailed names the first that does not compute it."""
    tally, own = Tally(), plan.encoding.rounding == "own"
    places = [(one.x, one.y) for one in operators]
    given = [_shaped(layers[one.mark.name][0], one.kind) for one in operators]
    if own:  # first what lies on its grid, where no rounding has a say
        given = [
            np.concatenate([plan.layers[one.mark.name].input.grid().nearest(x), x])
            for one, x in zip(operators, given, strict=True)
        ]
    for one, got in zip(operators, pieces(places, given), strict=True):
        cut = slice(one.mark.start, one.mark.stop)
        want = _shaped(layers[one.mark.name][1], one.kind)
        want = want[:, cut] if one.kind in ("Conv", "Tokens") else want[..., cut]
        tally.take(one.node, plan.layers[one.mark.name], got[: len(want)] if own else got, want)
        if own:
            tally.take_rounded(one.node, got[len(want) :], want)
    return tally


@dataclass
class Tally:
    """The worst so far.

    astray  values on a grid that are one step from the plan's, and floats that were made of such, of ``counted``
    """

    worst: float = 0.0
    astray: int = 0
    counted: int = 0

    @property
    def share(self) -> float:
        return self.astray / self.counted if self.counted else 0.0

    def take(self, node: str, layer: Layer, got: Array, want: Array) -> None:
        if got.shape != want.shape:
            raise ParityFailed(f"{node} alone gives {got.shape}, the plan {want.shape}")
        if layer.output is None:
            self._floats(node, got, want)
        else:
            self._steps(node, layer, got, want)

    def take_rounded(self, node: str, got: Array, want: Array) -> None:
        """Results of an engine that rounds what it is given its own way."""
        if got.shape != want.shape:
            raise ParityFailed(f"{node} alone gives {got.shape}, the plan {want.shape}")
        off = np.abs(got.astype(np.float64) - want) / (float(np.abs(want).max(initial=0.0)) or 1.0)
        moved = int((~(off <= EXACT)).sum())
        if moved > max(1, MOVED * off.size):
            raise _other(node, f"{moved:,} of {off.size:,} results are of other steps of what it is given")
        self.astray, self.counted = self.astray + moved, self.counted + off.size

    def take_integers(self, node: str, got: Array, want: Array) -> None:
        """What an operator is given on its grid: one in a thousand may be on the next step."""
        apart = np.abs(got.astype(np.int64) - want)
        astray = int((apart > 0).sum())
        if apart.max(initial=0) > 1 or astray > max(1, ASTRAY * apart.size):
            raise ParityFailed(
                f"{node} is given other integers than the plan gives it: {astray:,} of {apart.size:,} lie on another "
                f"step, {apart.max():.0f} away"
            )
        self.astray, self.counted = self.astray + astray, self.counted + apart.size

    def _floats(self, node: str, got: Array, want: Array) -> None:
        off = float(np.abs(got.astype(np.float64) - want).max(initial=0.0)) / (float(np.abs(want).max()) or 1.0)
        if not off <= EXACT:
            raise _other(node, f"its result differs by {off:.1e} of the largest")
        self.worst = max(self.worst, off)

    def _steps(self, node: str, layer: Layer, got: Array, want: Array) -> None:
        if layer.output is None:
            return
        grid = layer.output.grid()
        due = (np.maximum(want, 0) if layer.relu else want).astype(np.float32)
        apart = np.abs(np.rint(got / np.float32(grid.scale)) + grid.zero_point - grid.integers(due))
        astray = int((apart > 0).sum())
        if apart.max(initial=0.0) > 1 or astray > max(1, ASTRAY * apart.size):
            raise _other(node, f"{astray:,} of {apart.size:,} results lie on another step, {apart.max():.0f} away")
        self.astray, self.counted = self.astray + astray, self.counted + apart.size


def _other(node: str, how: str) -> ParityFailed:
    return ParityFailed(f"{node} alone, given what the plan gives it, does not compute the plan: {how}")


def _shaped(rows: Array, kind: str) -> Array:
    """As the graph's operator has them: a Gemm takes two axes, a convolution in place of one (B, C, 1, N)."""
    if kind == "Tokens":
        return np.ascontiguousarray(rows.swapaxes(1, 2)[:, :, None])
    return rows.reshape(-1, rows.shape[-1]) if kind == "Gemm" else rows
