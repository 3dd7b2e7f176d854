"""Ridge regression of what a layer's integers miss on what they are given (ERQ's Aqer), its weight in λ chosen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from edgevit.quantize.methods.base import Quantized, Start
from edgevit.quantize.methods.columns import Sums
from edgevit.quantize.methods.correcting import Fitting, corrected
from edgevit.quantize.plan import Weight

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)  # shares of the columns' mean square


class Ridge:
    """Bias corrected, and weights too where that is nearer."""

    def quantized(self, start: Start) -> Quantized:
        return corrected(start, start.plain(), candidates)


class Bias:
    """Biases moved by what integers miss on average."""

    def quantized(self, start: Start) -> Quantized:
        return corrected(start, start.plain(), lambda fitting: iter([shifted(fitting)] if fitting.biased else []))


def candidates(fitting: Fitting) -> Iterator[Weight]:
    if fitting.biased:
        yield shifted(fitting)
    for share in LAMBDAS:
        yield fitting.changed(ridge(fitting.fit, share, biased=fitting.biased))


def shifted(fitting: Fitting) -> Weight:
    """The bias with the mean of what is missing, the weight as it is."""
    change = torch.zeros_like(fitting.fit.cross)
    change[:, -1] = fitting.fit.cross[:, -1] / fitting.fit.count
    return fitting.changed(change)


def ridge(sums: Sums, share: float, *, biased: bool) -> Tensor:
    """(G, K+1, O/G): the change that makes the squares of what is missing, and λ times its own, least; the bias, where
    there is one, is free."""
    inputs = sums.gram.shape[-1] - 1
    penalty = share * sums.gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1).clamp_min(1e-30)
    system = sums.gram.clone()
    system.diagonal(dim1=1, dim2=2)[:, :inputs] += penalty[:, None]
    free = inputs + 1 if biased else inputs
    found = torch.zeros_like(sums.cross)
    found[:, :free] = torch.cholesky_solve(sums.cross[:, :free], torch.linalg.cholesky(system[:, :free, :free]))
    return found
