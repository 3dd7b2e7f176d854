"""Tensors of no axes that are made in a program: numbers. Some converters take the empty shape for no shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten


def _number(value: Any, dtype: torch.dtype | None) -> Tensor:
    found: Tensor = aten.scalar_tensor.default(value, dtype=dtype or torch.get_default_dtype())
    return found


def made_of(value: float) -> Callable[..., Tensor | Any]:
    """``torch.zeros`` or ``torch.ones``."""

    def written(size: Sequence[int], *, dtype: torch.dtype | None = None, **memory: Any) -> Tensor | Any:
        return NotImplemented if len(size) else _number(value, dtype)

    return written


def like(value: float) -> Callable[..., Tensor | Any]:
    """``Tensor.new_zeros`` or ``Tensor.new_ones``."""

    def written(self: Tensor, size: Sequence[int], *, dtype: torch.dtype | None = None, **memory: Any) -> Tensor | Any:
        return NotImplemented if len(size) else _number(value, dtype or self.dtype)

    return written


def full(size: Sequence[int], fill_value: Any, *, dtype: torch.dtype | None = None, **memory: Any) -> Tensor | Any:
    return NotImplemented if len(size) else _number(fill_value, dtype or torch.full((), fill_value).dtype)


def new_full(
    self: Tensor, size: Sequence[int], fill_value: Any, *, dtype: torch.dtype | None = None, **memory: Any
) -> Tensor | Any:
    return NotImplemented if len(size) else _number(fill_value, dtype or self.dtype)


def expand(self: Tensor, size: Sequence[int], *, implicit: bool = False) -> Tensor | Any:
    return NotImplemented if len(size) else self


def _is_single(node: fx.Node) -> bool:
    return not arguments(node)["size"]


SINGLE_RULES = {
    aten.zeros.default: Rule(made_of(0), _is_single),
    aten.ones.default: Rule(made_of(1), _is_single),
    aten.full.default: Rule(full, _is_single),
    aten.new_zeros.default: Rule(like(0), _is_single),
    aten.new_ones.default: Rule(like(1), _is_single),
    aten.new_full.default: Rule(new_full, _is_single),
    aten.expand.default: Rule(expand, _is_single),
}
