"""What re-parameterisation did to a model, and what it left."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgevit.artifact.manifest import ReparamSummary
from edgevit.errors import UsageError

_ATTRIBUTE = "reparam_report"


@dataclass(frozen=True)
class ReparamReport:
    """The outcome of one ``reparameterize``.

    folded         kind of fold -> how many
    left           path of a BatchNorm or parallel branch still in the result (or of a method that was declined) -> why
    params_before  parameters of the argument, params_after of the result
    max_rel_error  the worst of the proofs, max|a - b| / max|a| in float64; None when nothing was proved
    """

    folded: dict[str, int]
    left: dict[str, str]
    params_before: int
    params_after: int
    max_rel_error: float | None

    def summary(self) -> ReparamSummary:
        """The part that goes into a manifest. UsageError when the result was not proved."""
        if self.max_rel_error is None:
            raise UsageError("this re-parameterisation was not proved", hint="use reparameterize(model, prove=True)")
        return ReparamSummary(folded=self.folded, left=self.left, max_rel_error=self.max_rel_error)

    def lines(self) -> list[str]:
        """The report in words, one fact a line."""
        found = [f"folded {count} × {kind}" for kind, count in sorted(self.folded.items())] or ["nothing to fold"]
        found += [f"left {path}: {reason}" for path, reason in self.left.items()]
        found.append(f"parameters: {self.params_before:,} before, {self.params_after:,} after")
        if self.max_rel_error is None:
            found.append("not proved")
        else:
            found.append(f"proved in float64 with randomised statistics: relative error {self.max_rel_error:.1e}")
        return found


def attach_report(module: nn.Module, report: ReparamReport) -> nn.Module:
    """Remember ``report`` on ``module`` as its plain attribute ``reparam_report``."""
    setattr(module, _ATTRIBUTE, report)
    return module


def report_of(module: nn.Module) -> ReparamReport | None:
    """The report that ``reparameterize`` attached, or None for a module in train form."""
    report = getattr(module, _ATTRIBUTE, None)
    return report if isinstance(report, ReparamReport) else None
