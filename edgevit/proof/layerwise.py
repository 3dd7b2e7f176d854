"""Every integer layer of an artifact alone: is it what the plan says, and does the engine compute it?

The whole model cannot tell: an activation that lies between two steps of a grid goes to either, and outputs then move
by as much as integers cost. A layer that is given exactly what the plan gives it has nothing to move.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Array, Kernels, LayerProof, Parity
from edgevit.errors import BadArtifact, ParityFailed, Unsupported
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import Layer, QuantPlan
from edgevit.runtimes.base import Session

EXACT = 1e-5  # of the largest value: what float32 makes of an integer sum and its scale
# Of values on a grid: kernels scale an integer sum to the next grid by another product of floats, which puts what lies
# within a float's rounding of the border to the other side. One in a thousand is a hundred times what that makes.
ASTRAY = 1e-3

Layers = dict[str, tuple[Array, Array]]


def read_layers(path: Path) -> Layers:
    """Weight -> what its operator is given and makes of that, as the build wrote them."""
    with np.load(path, allow_pickle=False) as stored:
        names = json.loads(str(stored["names"]))
        return {name: (stored[f"0:{place}"], stored[f"1:{place}"]) for place, name in enumerate(names)}


def with_layers(session: Session, file: Path, parity: Parity) -> Parity:
    """``parity``, with what the layers alone show: failed where one of them is wrong. As it was where the engine runs
    none of them alone, which ``edgevit verify`` says."""
    try:
        return parity.model_copy(update={"layers": prove_layers(session, read_layers(file))})
    except ParityFailed as exc:
        return parity.model_copy(update={"status": "failed", "reason": str(exc)})
    except Unsupported:
        return parity


def prove_layers(session: Session, layers: Layers) -> LayerProof:
    """Every operator of the artifact's integers, run alone on what it is given. ParityFailed names the first that is
    not what the plan says; Unsupported where the engine cannot run it so."""
    operators, plan = operators_of(session)
    tally = _Tally()
    places = [(one.x, one.y) for one in operators]
    given = [_shaped(layers[one.mark.name][0], one.kind) for one in operators]
    for one, got in zip(operators, session.pieces(places, given), strict=True):
        cut = slice(one.mark.start, one.mark.stop)
        want = _shaped(layers[one.mark.name][1], one.kind)
        want = want[:, cut] if one.kind == "Conv" else want[..., cut]
        tally.take(one.node, plan.layers[one.mark.name], got, want)
    rows = max(len(x) for x, _ in layers.values())
    return LayerProof(**kernels_of(session).model_dump(), rows=rows, worst=tally.worst, steps=tally.share)


def kernels_of(session: Session) -> Kernels:
    """What ran in integers and what in floats. Unsupported where the engine does not tell."""
    manifest = session.artifact.manifest
    if manifest.integers is None:
        raise Unsupported(f"{session.artifact.path} has no integers")
    inputs, _ = session.artifact.golden()
    feeds = {name: np.resize(rows, (manifest.batch.min, *rows.shape[1:])) for name, rows in inputs.items()}
    kernels, floats = session.kernels(feeds)
    return Kernels(operators=manifest.integers.operators, kernels=kernels, floats=floats)


def operators_of(session: Session) -> tuple[Sequence[Operator], QuantPlan]:
    """Those of its integers as the file has them, all as the plan says, and the plan. ParityFailed for what it does
    not say, Unsupported where the file cannot be read here."""
    plan = session.artifact.plan()
    if plan is None:
        raise Unsupported(f"{session.artifact.path} has no plan of integers")
    try:
        return session.operators(plan), plan
    except BadArtifact as exc:
        raise ParityFailed(str(exc), hint=exc.hint) from exc


@dataclass
class _Tally:
    """The worst so far.

    astray  values on a grid that are one step from the plan's, of ``counted``
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
    """As the graph's operator has them: a Gemm takes two axes."""
    return rows.reshape(-1, rows.shape[-1]) if kind == "Gemm" else rows
