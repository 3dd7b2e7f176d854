"""Division of integers and what remains, in integers: as real numbers those above 2048 are lost in fp16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgevit.export.legalise import Rule
from edgevit.export.legalise.types import modulo_of_number

aten = torch.ops.aten


def is_whole(*values: Any) -> bool:
    """Of tensors and numbers, whether all are integers."""
    kinds = (one.dtype.is_floating_point if isinstance(one, Tensor) else isinstance(one, float) for one in values)
    return not any(kinds)


def divided(self: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor | Any:
    """``//`` of integers by its own name, and the quotient cut towards zero: one more where it was rounded down from a
    negative one."""
    if rounding_mode is None or not is_whole(self, other):
        return NotImplemented
    quotient = torch.floor_divide(self, other)
    return quotient if rounding_mode == "floor" else quotient + _is_cut(self, other).to(quotient.dtype)


def fmod(self: Tensor, other: Any) -> Tensor:
    """What remains, with the sign of what is divided."""
    rest = torch.remainder(self, other)
    return torch.where(_is_cut(self, other), rest - other, rest)


def _is_cut(self: Tensor, other: Any) -> Tensor:
    """Whether the quotient is negative and not whole."""
    return torch.logical_and(torch.remainder(self, other) != 0, torch.logical_xor(self < 0, _is_negative(self, other)))


def _is_negative(self: Tensor, other: Any) -> Tensor:
    return other < 0 if isinstance(other, Tensor) else torch.full_like(self, other < 0, dtype=torch.bool)


DIVISION_RULES = {aten.div.Tensor_mode: Rule(divided), aten.div.Scalar_mode: Rule(divided)}
REMAINDER_RULES = {
    aten.fmod.Tensor: Rule(fmod),
    aten.fmod.Scalar: Rule(fmod),
    aten.remainder.Scalar_Tensor: Rule(modulo_of_number),
}
