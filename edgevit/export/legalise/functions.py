"""Functions of single numbers, written out in those that every target has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten
_THRESHOLD = 20  # of softplus by default: beyond it nothing is left of what is added to x
_NUMBERS = (bool, int, float)


def trunc(self: Tensor) -> Tensor:
    return torch.where(self < 0, self.ceil(), self.floor())


def rounded(self: Tensor, *, decimals: int) -> Tensor:
    """To so many decimals, or tens where ``decimals`` is negative, in PyTorch's order of steps."""
    shift = 10.0 ** abs(decimals)
    return (self * shift).round() / shift if decimals >= 0 else (self / shift).round() * shift


def erfc(self: Tensor) -> Tensor:
    return 1 - self.erf()


def hypot(self: Tensor, other: Tensor) -> Tensor:
    """By the larger side, so that no square overflows."""
    long, short = torch.maximum(self.abs(), other.abs()), torch.minimum(self.abs(), other.abs())
    share = short / torch.where(long == 0, 1.0, long)
    return long * (1 + share * share).sqrt()


def asinh(self: Tensor) -> Tensor:
    """ln(|x| + √(x² + 1)), with what 1 loses of a small x kept apart."""
    size = self.abs()
    return (size + size * size / (1 + (size * size + 1).sqrt())).log1p() * self.sign()


def acosh(self: Tensor) -> Tensor:
    return (self + ((self - 1) * (self + 1)).sqrt()).log()


def log_sigmoid(self: Tensor) -> Tensor:
    return -F.softplus(-self)


def softplus(self: Tensor, beta: float = 1, threshold: float = _THRESHOLD) -> Tensor | Any:
    """x itself where ``beta`` x is beyond the threshold."""
    if threshold == _THRESHOLD:
        return NotImplemented
    return torch.where(self * beta > threshold, self, F.softplus(self, beta))


def _has_threshold(node: fx.Node) -> bool:
    return bool(arguments(node)["threshold"] != _THRESHOLD)


def log_softmax(self: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """x less the logarithm of the sum: the logarithm of a softmax is none where that is too small for a number."""
    given = self if dtype is None else self.to(dtype)
    below = given - given.amax(dim, keepdim=True)
    return below - below.exp().sum(dim, keepdim=True).log()


def lerp(self: Tensor, end: Tensor, weight: Any) -> Tensor:
    """From the nearer end, as PyTorch does it."""
    if isinstance(weight, Tensor):
        near = self + weight * (end - self)
        return torch.where(weight.abs() < 0.5, near, end - (end - self) * (1 - weight))
    near = abs(weight) < 0.5
    found: Tensor = self + weight * (end - self) if near else end - (end - self) * (1 - weight)
    return found


def xlogy(self: Any, other: Any) -> Tensor:
    """0 where ``self`` is, whatever the other is."""
    this, that = (one if isinstance(one, Tensor) else torch.full((), float(one)) for one in (self, other))
    return torch.where(this == 0, 0.0, this * torch.where(this == 0, 1.0, that).log())


def of_numbers(condition: Tensor, self: Any, other: Any) -> Tensor:
    """A choice between a tensor and a number, or of two, in the type that PyTorch gives it."""
    wanted = torch.result_type(self, other)
    if isinstance(self, _NUMBERS) and isinstance(other, _NUMBERS):
        kinds = {type(self), type(other)}
        wanted = torch.get_default_dtype() if float in kinds else torch.int64 if int in kinds else torch.bool
    yes, no = (
        one.to(wanted) if isinstance(one, Tensor) else torch.full((), one, dtype=wanted) for one in (self, other)
    )
    return torch.where(condition, yes, no)


def shifted(step: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, Any], Tensor | Any]:
    """``<<`` and ``>>`` by a number."""

    def written(self: Tensor, other: Any) -> Tensor | Any:
        return step(self, 2**other) if isinstance(other, int) and 0 <= other < 31 else NotImplemented

    return written


def low_bits(self: Tensor, other: Any) -> Tensor | Any:
    """``& 7`` and the like of integers: what remains of a division by 8, of negative ones too."""
    whole = self.dtype is not torch.bool and isinstance(other, int) and not isinstance(other, bool)
    return self % (other + 1) if whole and other >= 0 and other & (other + 1) == 0 else NotImplemented


FUNCTION_RULES = {
    aten.trunc.default: Rule(trunc),
    aten.round.decimals: Rule(rounded),
    aten.erfc.default: Rule(erfc),
    aten.hypot.default: Rule(hypot),
    aten.asinh.default: Rule(asinh),
    aten.acosh.default: Rule(acosh),
    aten.log_sigmoid.default: Rule(log_sigmoid),
    aten.softplus.default: Rule(softplus, _has_threshold),
    aten.log_softmax.int: Rule(log_softmax),
    aten.lerp.Scalar: Rule(lerp),
    aten.lerp.Tensor: Rule(lerp),
    aten.xlogy.Tensor: Rule(xlogy),
    aten.xlogy.Scalar_Self: Rule(xlogy),
    aten.xlogy.Scalar_Other: Rule(xlogy),
}
CHOICE_RULES = {form: Rule(of_numbers) for form in (aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)}
BIT_RULES = {
    aten.bitwise_and.Scalar: Rule(low_bits),
    aten.__and__.Scalar: Rule(low_bits),
    aten.__lshift__.Scalar: Rule(shifted(torch.mul)),
    aten.bitwise_left_shift.Tensor_Scalar: Rule(shifted(torch.mul)),
    aten.__rshift__.Scalar: Rule(shifted(torch.floor_divide)),
    aten.bitwise_right_shift.Tensor_Scalar: Rule(shifted(torch.floor_divide)),
}
