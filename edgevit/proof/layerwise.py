"""Every integer layer of an artifact alone: is it what the plan says, and does the engine compute it?

The whole model cannot tell: an activation that lies between two steps of a grid goes to either, and outputs then move
by as much as integers cost. A layer that is given exactly what the plan gives it has nothing to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgevit.artifact.manifest import Kernels, LayerProof, Parity
from edgevit.errors import BadArtifact, ParityFailed, Unsupported
from edgevit.precisions import WEIGHT_PRECISIONS
from edgevit.quantize.alone import Layers, read_layers
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import QuantPlan
from edgevit.runtimes.base import Session


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
    tally = session.held(operators, plan, layers)
    rows = max(len(x) for x, _ in layers.values())
    try:
        kernels = kernels_of(session)
    except Unsupported:
        kernels = Kernels(operators=len(operators), kernels=None, floats={})
    return LayerProof(**kernels.model_dump(), rows=rows, worst=tally.worst, steps=tally.share)


def kernels_of(session: Session) -> Kernels:
    """What ran in integers and what in floats. Unsupported where the engine does not tell."""
    manifest = session.artifact.manifest
    if manifest.integers is None:
        raise Unsupported(f"{session.artifact.path} has no integers")
    if manifest.precision in WEIGHT_PRECISIONS:
        return Kernels(operators=manifest.integers.operators, kernels=None, floats={}, alone=True)
    inputs, _ = session.artifact.golden()
    feeds = {name: np.resize(rows, (manifest.batch.min, *rows.shape[1:])) for name, rows in inputs.items()}
    kernels, floats = session.kernels(feeds)
    unmet: tuple[str, ...] = ()
    if sum(kernels.values()) < manifest.integers.operators:
        unmet = session.in_floats(feeds, operators_of(session)[0])
    return Kernels(operators=manifest.integers.operators, kernels=kernels, floats=floats, unmet=unmet)


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
