"""Numbers, booleans and normalisations in the plainest operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten


def rsub(self: Tensor, other: Any, alpha: Any = 1) -> Tensor:
    """``other - alpha * self``: some importers give an integer ``other`` another type than its tensor."""
    found: Tensor = torch.neg(self if alpha == 1 else self * alpha) + other
    return found


def extreme(find: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The largest, or smallest, and where it is, apart: together some importers make a ranking of them."""

    def written(self: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
        place = find(self, dim, True)
        value = self.gather(dim, place)
        return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))

    return written


def whole_clamp(self: Tensor, min: Any = None, max: Any = None) -> Tensor | Any:
    """Of integers at one end: some importers put an infinity, which no integer is, at the other."""
    if self.is_floating_point() or (min is None) == (max is None):
        return NotImplemented
    limit = torch.full((), max if min is None else min, dtype=self.dtype)
    return torch.minimum(self, limit) if min is None else torch.maximum(self, limit)


def all_dim(self: Tensor, dim: int | list[int], keepdim: bool = False) -> Tensor:
    """Whether none is zero."""
    zero = _zero(self)
    return torch.logical_not(zero) if dim == [] else _count(zero, dim, keepdim) == 0


def any_dim(self: Tensor, dim: int | list[int], keepdim: bool = False) -> Tensor:
    found = torch.logical_not(_zero(self))
    return found if dim == [] else _count(found, dim, keepdim) > 0


def _zero(self: Tensor) -> Tensor:
    return torch.logical_not(self) if self.dtype is torch.bool else self == 0


def _count(hits: Tensor, dim: int | list[int], keepdim: bool) -> Tensor:
    # as float32: sums of booleans and integers are no operator of some engines; a sum of ones never falls back to zero
    return hits.to(torch.float32).sum(dim, keepdim)


def all_of(self: Tensor) -> Tensor:
    return all_dim(self.reshape(-1), 0)


def any_of(self: Tensor) -> Tensor:
    return any_dim(self.reshape(-1), 0)


def bitwise(logical: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor | Any]:
    """``&``, ``|`` and ``^`` of booleans."""

    def written(self: Tensor, other: Tensor) -> Tensor | Any:
        both = self.dtype is torch.bool and other.dtype is torch.bool
        return logical(self, other) if both else NotImplemented

    return written


def bitwise_not(self: Tensor) -> Tensor | Any:
    return torch.logical_not(self) if self.dtype is torch.bool else NotImplemented


def batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    """One scale and one shift for each channel; without running statistics those of the batch."""
    if running_mean is None or running_var is None or training:
        axes = [axis for axis in range(input.ndim) if axis != 1]
        running_mean, running_var = input.mean(axes), input.var(axes, correction=0)
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    shape = [1, -1, *[1] * (input.ndim - 2)]
    return input * scale.reshape(shape) + shift.reshape(shape)


def batch_norm_kept(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_var: Tensor,
    momentum: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The form that PyTorch itself writes out; its second and third result are for training."""
    found = batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps, False)
    return found, running_mean, running_var


def batch_norm_of_batch(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    found = batch_norm(input, weight, bias, None, None, training, momentum, eps, False)
    return found, found, found


def layer_norm(
    input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    """With a weight of ones and a bias of zeros where it has none."""
    shape = normalized_shape
    weight = torch.ones(shape, dtype=input.dtype, device=input.device) if weight is None else weight
    bias = torch.zeros(shape, dtype=input.dtype, device=input.device) if bias is None else bias
    found: Tensor = torch.native_layer_norm(input, shape, weight, bias, eps)[0]
    return found


def is_bare(node: fx.Node) -> bool:
    given = arguments(node)
    return given["weight"] is None or given["bias"] is None


def one_hot(self: Tensor, num_classes: int = -1) -> Tensor | Any:
    """A comparison with 0, 1, 2, …"""
    if num_classes < 0:
        return NotImplemented
    return (self.unsqueeze(-1) == torch.arange(num_classes, device=self.device)).to(torch.int64)


def scatter_value(self: Tensor, dim: int, index: Tensor, value: Any) -> Tensor | Any:
    """One place of each line set: a comparison with 0, 1, 2, …"""
    dim %= max(1, self.ndim)
    others = [size for axis, size in enumerate(self.shape) if axis != dim]
    if self.ndim == 0 or index.shape[dim] != 1 or [s for a, s in enumerate(index.shape) if a != dim] != others:
        return NotImplemented
    places = torch.arange(self.shape[dim], device=self.device)
    hit = index == places.reshape([-1 if axis == dim else 1 for axis in range(self.ndim)])
    return torch.where(hit, torch.full_like(self, value), self)


BATCH_NORM_RULES = {
    aten.batch_norm.default: Rule(batch_norm),
    aten._native_batch_norm_legit_no_training.default: Rule(batch_norm_kept),
    aten._native_batch_norm_legit.no_stats: Rule(batch_norm_of_batch),
}
LAYER_NORM_RULES = {aten.layer_norm.default: Rule(layer_norm, is_bare)}
BOOLEAN_RULES = {
    aten.all.dim: Rule(all_dim),
    aten.all.dims: Rule(all_dim),
    aten.all.default: Rule(all_of),
    aten.any.dim: Rule(any_dim),
    aten.any.dims: Rule(any_dim),
    aten.any.default: Rule(any_of),
}
LOGICAL_RULES = {
    **{
        operator: Rule(bitwise(logical))
        for operators, logical in (
            ((aten.__and__.Tensor, aten.bitwise_and.Tensor), torch.logical_and),
            ((aten.__or__.Tensor, aten.bitwise_or.Tensor), torch.logical_or),
            ((aten.__xor__.Tensor, aten.bitwise_xor.Tensor), torch.logical_xor),
        )
        for operator in operators
    },
    aten.bitwise_not.default: Rule(bitwise_not),
}
ONE_HOT_RULES = {aten.one_hot.default: Rule(one_hot), aten.scatter.value: Rule(scatter_value)}
EXTREME_RULES = {
    aten.max.dim: Rule(extreme(aten.argmax.default)),
    aten.min.dim: Rule(extreme(aten.argmin.default)),
}
SUBTRACTION_RULES = {aten.rsub.Scalar: Rule(rsub), aten.rsub.Tensor: Rule(rsub)}
