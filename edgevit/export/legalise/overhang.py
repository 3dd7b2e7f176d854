"""Pooling as PyTorch counts its windows, and dilated: what converters count otherwise, or leave out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments
from edgevit.export.legalise.pooling import averaged, max_with_places

aten = torch.ops.aten


def pooled(operator: Callable[..., Any], axes: int) -> Rule:
    """Without the end of the map that no window reaches: by ``ceil_mode`` some count a window that begins behind it."""

    def written(self: Tensor, kernel_size: Sequence[int], *given: Any, **named: Any) -> Tensor | Any:
        more = given or (kernel_size,)  # the step, which some want to be told
        rest = _unreached(self, kernel_size, axes, more, named)
        if not any(rest) and given:
            return NotImplemented
        for axis, cut in enumerate(rest):
            place = self.ndim - axes + axis
            self = self.narrow(place, 0, self.shape[place] - cut)
        return operator(self, kernel_size, *more, **named)

    def needed(node: fx.Node) -> bool:
        value, kernel, *more = node.args
        rest = _unreached(value.meta["val"], kernel, axes, more, dict(node.kwargs))  # type: ignore[union-attr]
        return not more or any(rest)

    return Rule(written, needed)


def _unreached(self: Tensor, kernel: Any, axes: int, more: Sequence[Any], named: dict[str, Any]) -> list[int]:
    """By axis, what lies behind the last window where a ceiling would count one that begins behind the end."""
    ceil = named.get("ceil_mode", next((each for each in more if isinstance(each, bool)), False))
    given = [each for each in more if not isinstance(each, bool)]
    kernels = _each(kernel, axes)
    steps = _each(given[0] if given and given[0] else kernels, axes)
    pads = _each(given[1] if len(given) > 1 else named.get("padding", 0), axes)
    found = []
    for axis in range(axes):
        side = self.shape[self.ndim - axes + axis]
        whole = isinstance(side, int) and ceil and not pads[axis]
        last = math.ceil((side - kernels[axis]) / steps[axis]) * steps[axis] if whole else 0
        found.append(side - (last - steps[axis] + kernels[axis]) if whole and last >= side else 0)
    return found


def _each(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value) * (axes // len(value))


def max_pool2d(
    self: Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1), ceil_mode: bool = False,
) -> Tensor | Any:  # fmt: skip
    """With taps apart: the taps of every window gathered."""
    if not stride:
        return aten.max_pool2d.default(self, kernel_size, kernel_size, padding, dilation, ceil_mode)
    if set(_each(dilation, 2)) == {1}:
        return _MAX.written(self, kernel_size, stride, padding, dilation, ceil_mode)
    found = max_with_places(self, kernel_size, stride, padding, dilation, ceil_mode)
    return found if found is NotImplemented else found[0]


def _max_needed(node: fx.Node) -> bool:
    return set(_each(arguments(node)["dilation"], 2)) != {1} or _MAX.needed(node)


def max_and_places(
    self: Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1), ceil_mode: bool = False,
) -> tuple[Tensor, Tensor] | Any:  # fmt: skip
    """The largest of every window, and where they are in the map: what nobody asks for is left out later."""
    found = max_with_places(self, kernel_size, stride, padding, dilation, ceil_mode)
    if found is NotImplemented:
        return NotImplemented
    step = stride or kernel_size
    return aten.max_pool2d.default(self, kernel_size, step, padding, dilation, ceil_mode), found[1]


def averages(operator: Callable[..., Any], axes: int) -> Rule:
    """Over a given divisor, too."""
    plain = pooled(operator, axes)

    def written(self: Tensor, kernel_size: Sequence[int], *more: Any, **named: Any) -> Tensor | Any:
        found = averaged(self, kernel_size, *more, **named)
        return plain.written(self, kernel_size, *more, **named) if found is NotImplemented else found

    return Rule(written, lambda node: arguments(node)["divisor_override"] is not None or plain.needed(node))


_MAX = pooled(aten.max_pool2d.default, 2)
OVERHANG_RULES = {
    aten.max_pool1d.default: pooled(aten.max_pool1d.default, 1),
    aten.max_pool2d.default: Rule(max_pool2d, _max_needed),
    aten.max_pool3d.default: pooled(aten.max_pool3d.default, 3),
    aten.avg_pool1d.default: pooled(aten.avg_pool1d.default, 1),
    aten.avg_pool2d.default: averages(aten.avg_pool2d.default, 2),
    aten.avg_pool3d.default: averages(aten.avg_pool3d.default, 3),
    aten.max_pool2d_with_indices.default: Rule(max_and_places),
}
