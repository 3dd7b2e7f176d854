"""Variances, normalisations and distances in the plainest operators, where importers drop what they are given."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments
from edgevit.export.legalise.arithmetic import batch_norm, is_bare

aten = torch.ops.aten


def std(self: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    return torch.var(self, dim, correction=1 if correction is None else correction, keepdim=keepdim).sqrt()


def var_mean(self: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    over = list(range(self.ndim)) if dim is None else dim
    found = torch.var(self, over, correction=1 if correction is None else correction, keepdim=keepdim)
    return found, self.mean(over, keepdim)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor | Any:  # fmt: skip
    """With a weight of ones and a bias of zeros where it has none."""
    if weight is not None and bias is not None:
        return NotImplemented
    size = [input.shape[1]]
    weight = torch.ones(size, dtype=input.dtype, device=input.device) if weight is None else weight
    bias = torch.zeros(size, dtype=input.dtype, device=input.device) if bias is None else bias
    return torch.group_norm(input, num_groups, weight, bias, eps)


def instance_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    """By the mean and variance of each map, or those that were learned."""
    if not use_input_stats:
        return batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps, False)
    axes = list(range(2, input.ndim))
    away = input - input.mean(axes, keepdim=True)
    found = away * torch.rsqrt((away * away).mean(axes, keepdim=True) + eps)
    shape = [1, -1, *[1] * len(axes)]
    found = found if weight is None else found * weight.reshape(shape)
    return found if bias is None else found + bias.reshape(shape)


def rms_norm(
    input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """A layer normalisation of the values and their negatives, whose mean is nothing and whose variance is the mean
    square: one operator, whose squares fp16 does not have to hold."""
    least = torch.finfo(input.dtype).eps if eps is None else eps
    lines = input.flatten(-len(normalized_shape))
    count = lines.shape[-1]
    found = F.layer_norm(torch.cat([lines, -lines], -1), [2 * count], eps=least).narrow(-1, 0, count)
    found = found.reshape(input.shape)
    return found if weight is None else found * weight


def _is_learned(node: fx.Node) -> bool:
    return not arguments(node)["use_input_stats"]


def distances(x1: Tensor, x2: Tensor, p: float, compute_mode: int | None) -> Any:
    """(…, N, C) and (…, M, C) -> (…, N, M)."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def log1p(self: Tensor) -> Tensor:
    """Kahan's: what 1 + x has lost of a small x is put back by a quotient."""
    above = 1 + self
    small = torch.where(above == 1, self, above.log() * (self / torch.where(above == 1, 1.0, above - 1)))
    return torch.where(self.abs() < 0.5, small, above.log())


def expm1(self: Tensor) -> Tensor:
    power = self.exp()
    below = power.log()
    small = torch.where(below == 0, self, (power - 1) * (self / torch.where(below == 0, 1.0, below)))
    return torch.where(self.abs() < 0.5, small, power - 1)


def logaddexp(self: Tensor, other: Tensor) -> Tensor:
    """From the larger one, so that no power overflows; of equal infinities, themselves."""
    most, least = torch.maximum(self, other), torch.minimum(self, other)
    found = most + log1p((least - most).exp())
    return torch.where(self == other, most + 0.6931471805599453, found)


def count_norm(
    self: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | Any:
    """The norm of order 0: how many are not zero."""
    over = list(range(self.ndim)) if dim is None else dim
    return (self != 0).to(dtype or self.dtype).sum(over, keepdim) if ord == 0 else NotImplemented


def _counts(node: fx.Node) -> bool:
    return bool(arguments(node)["ord"] == 0)


def kthvalue(self: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, places = torch.sort(self, dim=dim, stable=True)
    found = values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    return found if keepdim else (found[0].squeeze(dim), found[1].squeeze(dim))


def median(self: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two; the first NaN where there is one."""
    found, place = kthvalue(self, (self.shape[dim] + 1) // 2, dim, True)
    if self.is_floating_point():
        strange = torch.isnan(self).to(torch.int32).max(dim, keepdim=True)
        place = torch.where(strange.values > 0, strange.indices, place)
        found = self.gather(dim, place)
    return (found, place) if keepdim else (found.squeeze(dim), place.squeeze(dim))


def median_of_all(self: Tensor) -> Tensor:
    return median(self.reshape(-1), 0)[0]


STATISTICS_RULES = {
    aten.linalg_vector_norm.default: Rule(count_norm, _counts),
    aten.median.dim: Rule(median),
    aten.median.default: Rule(median_of_all),
    aten.std.correction: Rule(std),
    aten.var_mean.correction: Rule(var_mean),
    aten.group_norm.default: Rule(group_norm, is_bare),
    aten.instance_norm.default: Rule(instance_norm),
    aten._cdist_forward.default: Rule(distances),
    aten.log1p.default: Rule(log1p),
    aten.expm1.default: Rule(expm1),
    aten.logaddexp.default: Rule(logaddexp),
    aten.kthvalue.default: Rule(kthvalue),
}
LEARNED_RULES = {aten.instance_norm.default: Rule(instance_norm, _is_learned)}
RMS_RULES = {aten.rms_norm.default: Rule(rms_norm)}
