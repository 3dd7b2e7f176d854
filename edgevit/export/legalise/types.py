"""Operators on tensors of two types, or of a type that importers have no kernel for: all brought to one type first.

Some importers give a number the type of its tensor, so that an integer plus 0.5 is the integer, and divide integers as
integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten
Written = Callable[..., Any]


def _type_of(first: Any, second: Any, real: bool) -> torch.dtype:
    found = torch.result_type(*(_number(each) for each in (first, second)))
    whole = not found.is_floating_point and not found.is_complex
    return torch.get_default_dtype() if real and whole else found


def _number(value: Any) -> Any:
    """What stands for a size that is not known yet."""
    return 1 if isinstance(value, torch.SymInt) else 1.0 if isinstance(value, torch.SymFloat) else value


def _operands(node: fx.Node) -> tuple[Any, Any]:
    first, second = (each.meta["val"] if isinstance(each, fx.Node) else each for each in node.args[:2])
    return first, second


def _is(value: Any, wanted: torch.dtype) -> bool:
    return not isinstance(value, Tensor) or value.dtype is wanted


def _as(value: Any, wanted: torch.dtype) -> Any:
    return value if _is(value, wanted) else value.to(wanted)


def two(operator: Written, *, real: bool = False, logical: Written | None = None) -> Rule:
    """Of two operands; ``real``: never of integers; ``logical``: what it is of booleans."""

    def written(self: Any, other: Any, **more: Any) -> Any:
        alpha = more.pop("alpha", 1)
        wanted = _type_of(self, other, real)
        if alpha != 1:
            return operator(self, other * alpha)
        if logical and wanted is torch.bool:
            return logical(self, other)
        if _is(self, wanted) and _is(other, wanted):
            return NotImplemented
        return operator(_as(self, wanted), _as(other, wanted), **more)

    def needed(node: fx.Node) -> bool:
        first, second = _operands(node)
        if not isinstance(first, Tensor) and not isinstance(second, Tensor):
            return False
        wanted = _type_of(first, second, real)
        same = _is(first, wanted) and _is(second, wanted)
        return not same or bool(node.kwargs.get("alpha", 1) != 1 or (logical and wanted is torch.bool))

    return Rule(written, needed)


def one(operator: Written) -> Rule:
    """Of one operand that is never an integer."""

    def written(self: Tensor, **more: Any) -> Any:
        whole = not self.is_floating_point() and not self.is_complex()
        return operator(self.to(torch.get_default_dtype()), **more) if whole else NotImplemented

    def needed(node: fx.Node) -> bool:
        value = arguments(node)["self"].meta["val"]
        return not value.is_floating_point() and not value.is_complex()

    return Rule(written, needed)


def bitwise(operator: Written) -> Rule:
    """Of a tensor and a number."""
    return Rule(lambda self, other: operator(self, torch.full_like(self, other)))


def cosh(self: Tensor) -> Tensor:
    """Of two halves of the power, which is infinite only where the result is."""
    half = (_real(self).abs() * 0.5).exp()
    return half * 0.5 * half + 0.5 / half / half


def sinh(self: Tensor) -> Tensor:
    """A small one by what its power has above one, which a difference of powers would lose."""
    value = _real(self)
    size = value.abs()
    half, above = (size * 0.5).exp(), torch.expm1(size.clamp(max=1.0))
    found = torch.where(size < 1.0, (above + above / (above + 1.0)) * 0.5, half * 0.5 * half - 0.5 / half / half)
    return found * value.sign()


def _real(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())


def chosen(condition: Tensor, self: Tensor, other: Tensor) -> Tensor | Any:
    wanted = torch.result_type(self, other)
    if _is(self, wanted) and _is(other, wanted):
        return NotImplemented
    return torch.where(condition, _as(self, wanted), _as(other, wanted))


def joined(tensors: list[Tensor], dim: int = 0) -> Tensor | Any:
    wanted = tensors[0].dtype
    for each in tensors[1:]:
        wanted = torch.promote_types(wanted, each.dtype)
    if all(_is(each, wanted) for each in tensors):
        return NotImplemented
    return torch.cat([_as(each, wanted) for each in tensors], dim)


def _of_two_types(node: fx.Node) -> bool:
    values = [each.meta["val"] for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]
    return len({each.dtype for each in values if each.dtype is not torch.bool}) > 1 or (
        node.target is aten.cat.default and len({each.dtype for each in values}) > 1
    )


def divided(self: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """By a number, whose type some importers take from the number alone."""
    if isinstance(other, Tensor):
        return NotImplemented
    wanted = torch.result_type(self, other)
    if rounding_mode == "floor":
        return torch.floor_divide(_as(self, wanted), other)
    if wanted.is_floating_point:
        return torch.trunc(_as(self, wanted) / other)
    return torch.div(_as(self, wanted), torch.full((), other, dtype=wanted), rounding_mode=rounding_mode)


def modulo_of_number(self: Any, other: Tensor) -> Tensor:
    return torch.remainder(torch.full((), self, dtype=torch.result_type(self, other)), other)


def power(self: Any, exponent: Tensor) -> Any:
    """Of integers by way of float64, which holds every power below 2⁵³, and of two types by way of one."""
    wanted = torch.result_type(self, exponent)
    if wanted.is_floating_point:
        same = _is(self, wanted) and _is(exponent, wanted)
        return NotImplemented if same else torch.pow(_as(self, wanted), _as(exponent, wanted))
    wide = self.to(torch.float64) if isinstance(self, Tensor) else float(self)
    return torch.pow(wide, exponent.to(torch.float64)).round().to(wanted)


def _is_whole_power(node: fx.Node) -> bool:
    first, second = _operands(node)
    wanted = torch.result_type(first, second)
    return not (wanted.is_floating_point and _is(first, wanted) and _is(second, wanted))


def _has_number(node: fx.Node) -> bool:
    return not isinstance(arguments(node)["other"], fx.Node)


def _of_booleans(logical: Callable[[Tensor, Tensor], Tensor]) -> Written:
    return lambda self, other: logical(self, other if isinstance(other, Tensor) else torch.full_like(self, other))


_COMPARISONS: Mapping[Any, Written] = {  # and what they are of booleans
    aten.eq: _of_booleans(lambda a, b: ~(a ^ b)),
    aten.ne: _of_booleans(lambda a, b: a ^ b),
    aten.lt: _of_booleans(lambda a, b: ~a & b),
    aten.le: _of_booleans(lambda a, b: ~a | b),
    aten.gt: _of_booleans(lambda a, b: a & ~b),
    aten.ge: _of_booleans(lambda a, b: a | ~b),
}
_REAL = (
    aten.exp, aten.exp2, aten.log, aten.log2, aten.log10, aten.sqrt, aten.rsqrt, aten.reciprocal,
    aten.sigmoid, aten.erf, aten.sin, aten.cos, aten.tan, aten.tanh, aten.asin, aten.acos, aten.atan,
    aten.asinh, aten.acosh, aten.atanh,
)  # fmt: skip
TYPE_RULES = {
    aten.add.Tensor: two(torch.add, logical=torch.logical_or),
    aten.mul.Tensor: two(torch.mul, logical=torch.logical_and),
    aten.sub.Tensor: two(torch.sub),
    aten.div.Tensor: two(torch.div, real=True),
    aten.pow.Tensor_Scalar: two(torch.pow),
    aten.pow.Tensor_Tensor: Rule(power, _is_whole_power),
    aten.pow.Scalar: Rule(power, _is_whole_power),
    aten.remainder.Tensor: two(torch.remainder),
    aten.remainder.Scalar: two(torch.remainder),
    aten.remainder.Scalar_Tensor: Rule(modulo_of_number),
    aten.fmod.Tensor: two(torch.fmod),
    aten.fmod.Scalar: two(torch.fmod),
    aten.floor_divide.default: two(torch.floor_divide),
    aten.maximum.default: two(torch.maximum, logical=torch.logical_or),
    aten.minimum.default: two(torch.minimum, logical=torch.logical_and),
    aten.atan2.default: two(torch.atan2, real=True),
    aten.div.Tensor_mode: Rule(divided, _has_number),
    aten.where.self: Rule(chosen, _of_two_types),
    aten.cat.default: Rule(joined, _of_two_types),
    **{
        form: two(operator, logical=of_booleans)
        for operator, of_booleans in _COMPARISONS.items()
        for form in (operator.Tensor, operator.Scalar)
    },
    **{operator.default: one(operator.default) for operator in _REAL},
    aten.cosh.default: Rule(cosh),
    aten.sinh.default: Rule(sinh),
    aten.bitwise_and.Scalar: bitwise(torch.bitwise_and),
    aten.bitwise_or.Scalar: bitwise(torch.bitwise_or),
    aten.bitwise_xor.Scalar: bitwise(torch.bitwise_xor),
}
