"""One target's files, written by its exporter: of integers, until the plan that is in them costs no more than asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgevit.artifact.files import write_atomically
from edgevit.artifact.goodness import IntegerReport
from edgevit.artifact.manifest import QUANT
from edgevit.errors import ExportFailed, Unsupported
from edgevit.export.base import Built, Context
from edgevit.export.prepared import Prepared
from edgevit.export.targets import Target
from edgevit.precisions import INTEGER_PRECISIONS
from edgevit.quantize.alone import Layers, write_layers
from edgevit.quantize.plan import QuantPlan


@dataclass(frozen=True)
class Written:
    """What a target's files are, and what they have to compute.

    prepared  as it was, or with what its integers answer in place of what its floats do
    integers  of a plan, for the manifest
    layers    weight -> what its operator is given and makes of it, for their proof
    """

    prepared: Prepared
    built: Built
    integers: IntegerReport | None = None
    layers: Layers = field(default_factory=dict)

    def noting(self, notes: Iterable[str]) -> Written:
        """With what else is to be said of the files."""
        return replace(self, built=replace(self.built, notes=(*self.built.notes, *notes)))

    def write_plan(self, folder: Path) -> None:
        """The plan of its integers, where it has one, beside the model files."""
        if self.built.plan is not None:
            write_atomically(folder / QUANT, self.built.plan.text())

    def write_layers(self, path: Path) -> str | None:
        """``layers`` as a file for the process that proves them; None where there are none."""
        if not self.layers:
            return None
        write_layers(path, self.layers)
        return str(path)


def written(prepared: Prepared, target: Target, folder: Path, context: Context) -> Written:
    """Build into ``folder``. Raises what the exporter does, and GateMissed for integers that cost too much."""
    if target.precision in INTEGER_PRECISIONS:
        return _integers(prepared, target, folder, context)
    return Written(prepared, _write(prepared, target, folder, context))


def _integers(prepared: Prepared, target: Target, folder: Path, context: Context) -> Written:
    if prepared.integers is None:
        raise Unsupported(f"{prepared.info.name} cannot be {target.precision}", hint="use --precision fp32")
    context.progress("ranges on calibration rows", None)
    integral = prepared.integers()
    plan = integral.plan
    integral.require_captured(prepared)
    while True:
        context.progress(f"build {target.name} {target.precision}", None)
        built = _write(integral.planned(prepared, plan), target, folder, context)
        found = _plan_of(built)
        if set(plan.corrected) - set(found.corrected):  # what stays float in this graph has the model's own weights
            plan = found
            _emptied(folder)
            continue
        kept, loss = integral.gated(found, context.progress)
        if kept == found:
            break
        plan = kept
        _emptied(folder)
    answering, report = integral.prepared(prepared, found), integral.report(found, loss, built.operators)
    return Written(answering, built, report, integral.layers(found, prepared.rows.inputs))


def _plan_of(built: Built) -> QuantPlan:
    if built.plan is None:
        raise ExportFailed("the exporter does not say which layers are integers", hint="please report this target")
    return built.plan


def _write(prepared: Prepared, target: Target, folder: Path, context: Context) -> Built:
    built: Built = target.exporter.write(
        prepared.capture, folder, precision=target.precision, options=target.options, context=context
    )
    return built


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
