"""A re-parameterisation is made anew every time, since it is a module; its proof, which takes far longer, is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from edgevit.errors import UsageError
from edgevit.export.cache.findings import FOLD, Fold
from edgevit.export.cache.recall import Recall
from edgevit.models.reparam import ReparamReport, reparameterize, report_of
from edgevit.models.reparam.report import attach_report


def folded(source: nn.Module, example: Sequence[Tensor] | None, recall: Recall) -> tuple[nn.Module, ReparamReport]:
    """The deploy form, and its proof: found again where the fold gives, bit by bit, the module that was proved."""
    modules: list[nn.Module] = []

    def made() -> Fold:
        modules[:] = [reparameterize(source, example_inputs=example)]
        return Fold(_report(modules[0]), recall.content(modules[0]))

    def holds(found: Fold) -> bool:
        again = reparameterize(source, prove=False, example_inputs=example)
        attach_report(again, replace(_report(again), max_rel_error=found.report.max_rel_error))
        modules[:] = [again]
        return recall.content(again) == found.module

    found = recall.found(FOLD, (source, example), made, holds)
    return modules[0], found.report


def _report(module: nn.Module) -> ReparamReport:
    report = report_of(module)
    if report is None:
        raise UsageError("this module was not re-parameterised", hint="use edgevit.reparameterize")
    return report
