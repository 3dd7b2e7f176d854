"""A layer as what it is: products of columns with a matrix, for each group of channels. Convolutions too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgevit.quantize.plan import Array
from edgevit.quantize.sites import Site

MOST = 4e9  # multiplications for one Gram matrix: of more positions, some are looked at


@dataclass(frozen=True)
class _Window:
    """How a convolution moves over its input, for two axes of it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


def columns(site: Site, values: Array, x: Tensor) -> Tensor:
    """(G, N, K): all that the weight (O, K, …) of a layer is multiplied with in input ``x``; G groups."""
    if site.kind == "linear":
        return x.reshape(1, -1, x.shape[-1])
    window = _window(site, values)
    x = x if x.ndim == 4 else x.unsqueeze(-2)
    padded = functional.pad(x, window.padding)
    taken = functional.unfold(padded, window.kernel, window.dilation, 0, window.stride)  # (B, C·k, N)
    apart = taken.reshape(len(taken), window.groups, -1, taken.shape[-1])
    return apart.permute(1, 0, 3, 2).flatten(1, 2)


def results(site: Site, values: Array, y: Tensor) -> Tensor:
    """(G, N, O/G) of a layer's output, in the order of ``columns``."""
    if site.kind == "linear":
        return y.reshape(1, -1, y.shape[-1])
    apart = y.reshape(len(y), groups_of(site, values), -1, math.prod(y.shape[2:]))
    return apart.permute(1, 0, 3, 2).flatten(1, 2)


def matrices(site: Site, values: Array) -> Tensor:
    """(G, K, O/G) float64 of a weight (O, K, …)."""
    flat = torch.from_numpy(values).double().reshape(groups_of(site, values), -1, values[0].size)
    return flat.transpose(1, 2)


def weight_of(values: Array, found: Tensor) -> Array:
    """The weight, of the shape of ``values``, that ``matrices`` makes ``found`` of."""
    flat: Array = found.transpose(1, 2).reshape(values.shape).float().numpy()
    return flat


def groups_of(site: Site, values: Array) -> int:
    return 1 if site.kind == "linear" else _window(site, values).groups


def _window(site: Site, values: Array) -> _Window:
    """Of a call ``conv(x, weight, bias, stride, padding, dilation, groups)`` of one axis or two."""
    given: tuple[Any, ...] = (*site.node.args[3:], *(1, 0, 1, 1)[len(site.node.args[3:]) :])
    stride, padding, dilation, groups = given
    kernel, dilated = _two(values.shape[2:], 1), _two(dilation, 1)
    if isinstance(padding, str):
        whole = [step * (size - 1) if padding == "same" else 0 for step, size in zip(dilated, kernel, strict=True)]
        (top, left), (tall, wide) = [one // 2 for one in whole], whole
        ends = (left, wide - left, top, tall - top)
    else:
        tall, wide = _two(padding, 0, len(values.shape) - 2)
        ends = (wide, wide, tall, tall)
    return _Window(kernel, _two(stride, 1, len(values.shape) - 2), ends, dilated, int(groups))


def _two(given: Any, rest: int, axes: int = 2) -> tuple[int, int]:
    """What is said of each axis, once for all of them or one by one, for two: of one axis the other has ``rest``."""
    sides = [int(given)] * axes if isinstance(given, int) else [int(one) for one in given]
    sides = sides * axes if len(sides) == 1 and axes == 2 else sides
    return (rest, sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def some(count: int, share: float, seed: int) -> Array:
    """Of so many positions those that are looked at."""
    # RandomState: its stream is frozen for all numpy versions, so that a plan is the same wherever it is made.
    found: Array = np.random.RandomState(seed).permutation(count)[: max(1, int(min(1.0, share) * count))]
    return found


@dataclass
class Sums:
    """Of columns a and of what is missing from a layer's results d, over positions: all that a least square needs.

    gram  (G, K+1, K+1) of aᵀa, the last of a being 1: a bias
    cross (G, K+1, O/G) of aᵀd
    off   (G, O/G) of d²
    """

    gram: Tensor
    cross: Tensor
    off: Tensor
    count: int = 0

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int) -> Sums:
        def zeros(*sides: int) -> Tensor:
            return torch.zeros(groups, *sides, dtype=torch.float64)

        return cls(zeros(inputs + 1, inputs + 1), zeros(inputs + 1, outputs), zeros(outputs))

    def take(self, given: Tensor, missing: Tensor) -> None:
        """Columns (G, N, K) and what is missing (G, N, O/G) at each position."""
        a = torch.cat([given, given.new_ones(*given.shape[:2], 1)], -1)
        # Each product in float32, of few enough positions to be exact to six digits, all of them summed in float64.
        self.gram += a.transpose(1, 2) @ a
        self.cross += a.transpose(1, 2) @ missing
        self.off += (missing.double() ** 2).sum(1)
        self.count += given.shape[1]

    def error(self, change: Tensor) -> Tensor:
        """(G, O/G): the square of what is still missing with ``change`` (G, K+1, O/G) added to the weight."""
        return self.off - 2 * (change * self.cross).sum(1) + (change * (self.gram @ change)).sum(1)
