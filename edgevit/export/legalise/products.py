"""Products and convolutions with as many axes as importers take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten


def matmul(self: Tensor, other: Tensor) -> Tensor | Any:
    """A vector as a row, or a column."""
    if self.ndim > 1 and other.ndim > 1:
        return NotImplemented
    left = self.unsqueeze(0) if self.ndim == 1 else self
    right = other.unsqueeze(1) if other.ndim == 1 else other
    found = torch.matmul(left, right)
    found = found.squeeze(-1) if other.ndim == 1 else found
    return found.squeeze(-1 if other.ndim == 1 else -2) if self.ndim == 1 else found


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of a vector, or by one."""
    found = torch.matmul(input, weight.t())
    return found if bias is None else found + bias


def _has_vector(node: fx.Node) -> bool:
    return any(each.meta["val"].ndim == 1 for each in node.all_input_nodes)


def _of_vector(node: fx.Node) -> bool:
    return any(arguments(node)[name].meta["val"].ndim == 1 for name in ("input", "weight"))


def added(product: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """``beta`` self + ``alpha`` (product): self is not looked at where ``beta`` is 0."""

    def written(self: Tensor, first: Tensor, second: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        found = product(first, second)
        found = found if alpha == 1 else found * alpha
        return found if beta == 0 else found + (self if beta == 1 else self * beta)

    return Rule(written, lambda node: any(arguments(node)[name] != 1 for name in ("beta", "alpha")))


def _sum_of_products(first: Tensor, second: Tensor) -> Tensor:
    return torch.bmm(first, second).sum(0)


def _of_one(operator: Callable[..., Any], axes: int) -> Rule:
    """Of one map, as of a batch of one."""

    def written(input: Tensor, *more: Any, **named: Any) -> Tensor | Any:
        return operator(input.unsqueeze(0), *more, **named).squeeze(0) if input.ndim == axes + 1 else NotImplemented

    return Rule(written, lambda node: node.args[0].meta["val"].ndim == axes + 1)  # type: ignore[union-attr]


PRODUCT_RULES = {
    aten.matmul.default: Rule(matmul, _has_vector),
    aten.linear.default: Rule(linear, _of_vector),
    **{
        operator: _of_one(operator, axes)
        for axes, operators in enumerate(
            (
                (aten.conv1d.default, aten.conv1d.padding, aten.conv_transpose1d.default),
                (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input),
                (aten.conv3d.default, aten.conv3d.padding),
            ),
            start=1,
        )
        for operator in operators
    },
}
SUM_RULES = {
    aten.addmm.default: added(torch.mm),
    aten.baddbmm.default: added(torch.bmm),
    aten.addmv.default: Rule(added(torch.matmul).written),
    aten.addbmm.default: Rule(added(_sum_of_products).written),
}
