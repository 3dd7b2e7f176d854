"""Maps made larger or smaller at their borders: in circles, by less than nothing, after a transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten


def padded(self: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor | Any:
    """Cut where a side is to lose; then padded, in a circle by what the other end holds."""
    circle = mode == "circular"
    if not circle and min(pad, default=0) >= 0:
        return NotImplemented
    if mode in ("reflect", "replicate") and min(pad) < 0:
        return _by_places(self, pad, mode)
    for place, (before, after) in _sides(self, pad):
        self = self.narrow(place, max(0, -before), self.shape[place] + min(0, before) + min(0, after))
        if circle:
            self = _in_a_circle(self, place, max(0, before), max(0, after))
    grown = [max(0, each) for each in pad]
    return self if circle or not any(grown) else F.pad(self, grown, mode, value)


def _sides(self: Tensor, pad: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    """Each axis with what is put before and after it."""
    return [(self.ndim - 1 - at, (pad[2 * at], pad[2 * at + 1])) for at in range(len(pad) // 2)]


def _in_a_circle(self: Tensor, axis: int, before: int, after: int) -> Tensor:
    if not before and not after:
        return self
    side = self.shape[axis]
    return torch.cat([self.narrow(axis, side - before, before), self, self.narrow(axis, 0, after)], axis)


def _by_places(self: Tensor, pad: Sequence[int], mode: str) -> Tensor:
    """What is shown at every place, read at once: what is cut at one end may be shown at the other."""
    for axis, (before, after) in _sides(self, pad):
        last = self.shape[axis] - 1
        place = torch.arange(-before, last + 1 + after, device=self.device)
        place = last - (last - place.abs()).abs() if mode == "reflect" else place.clamp(0, last)
        self = self.index_select(axis, place)
    return self


def constant_pad(self: Tensor, pad: Sequence[int], value: Any = 0) -> Tensor | Any:
    return padded(self, pad, "constant", value)


def _is_odd(node: fx.Node) -> bool:
    given = arguments(node)
    return given.get("mode") == "circular" or any(isinstance(each, int) and each < 0 for each in given["pad"])


def transposed(axes: int) -> Rule:
    """Transposed convolution whose output is larger at one end than its windows cover: the whole of it, and cut."""

    def written(
        input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,), output_padding: Sequence[int] = (0,), groups: int = 1,
        dilation: Sequence[int] = (1,),
    ) -> Tensor | Any:  # fmt: skip
        cut, more = (list(each) * (axes // len(each)) for each in (padding, output_padding))
        if not any(more):
            return NotImplemented
        operator = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        whole = operator(input, weight, None, tuple(stride), 0, 0, groups, tuple(dilation))
        for axis in range(axes):
            place, after = input.ndim - axes + axis, more[axis] - cut[axis]
            whole = whole.narrow(place, cut[axis], whole.shape[place] - cut[axis] + min(0, after))
        rest = [max(0, more[axis] - cut[axis]) for axis in range(axes)]
        if any(rest):
            whole = F.pad(whole, [side for each in reversed(rest) for side in (0, each)])
        return whole if bias is None else whole + bias.reshape([-1, *[1] * axes])

    return Rule(written, lambda node: any(arguments(node)["output_padding"]))


BORDER_RULES = {aten.pad.default: Rule(padded, _is_odd), aten.constant_pad_nd.default: Rule(constant_pad, _is_odd)}
TRANSPOSED_RULES = {
    aten.conv_transpose1d.default: transposed(1),
    aten.conv_transpose2d.input: transposed(2),
    aten.conv_transpose3d.input: transposed(3),
}
