"""The kernels of integers in a compiled model, told by what they are given while it runs, and held against the plan.

What follows a product runs in its kernel, up to the grid of the next one: no layer can be run alone. Each is given the
plan's integers in place of those that were computed, which must be the same: between two layers then lies what the
second one is given, and nothing adds up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import ParityFailed
from edgevit.quantize.alone import Layers, Tally
from edgevit.quantize.operators import Mark, Operator, wrong
from edgevit.quantize.plan import QuantPlan, sum_scales

INTEGER = "int8_"  # how the exporter's names of such products begin
_PRODUCT = re.compile(r"(?:^|_)(int8_)?(matmul|conv2d|depthwise|group_conv2d)\d*(?:_|$)")
_BARE = re.compile(r"^(fused_)?int8_[a-z0-9]+?(_conv2d)?\d*_add\d*_cast\d*_multiply\d*$")  # nothing follows its steps
Hook = Callable[[str, bool, Sequence[Any]], None]


def counted(symbols: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Products among kernel calls: those of integers, and those of floats."""
    found: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for symbol in symbols:
        for integer, kind in _PRODUCT.findall(symbol):
            found[not integer][f"{integer}{kind}"] += 1
    return dict(found[0]), dict(found[1])


@dataclass(frozen=True)
class Kernel:
    """One call of a kernel of integers, as views of its memory.

    given  (…, channels) uint8; of a convolution channels last, with the border that it reads
    steps  (N,) float32
    made   what it writes
    """

    symbol: str
    given: Array
    steps: Array
    made: Array

    @classmethod
    def of(cls, symbol: str, arguments: Sequence[Any]) -> Kernel | None:
        """None for another kernel. BadArtifact for one whose steps are missing."""
        if INTEGER not in symbol:
            return None
        views = [np.from_dlpack(one) for one in arguments if hasattr(one, "shape")]
        whole = [at for at, one in enumerate(views) if one.dtype == np.int32 and one.ndim == 1]
        steps = [one for at in whole for one in views[at + 1 : at + 2] if one.dtype == np.float32]
        if not steps or views[0].dtype != np.uint8 or views[1].dtype != np.int8:
            raise wrong(f"{symbol} does not multiply uint8 by int8, with a step for each channel")
        return cls(symbol, views[0], steps[0], views[-1])


class Reading:
    """Which layer each call is, in the order they run: that with these very steps."""

    def __init__(self, plan: QuantPlan) -> None:
        self.plan, self.steps = plan, {name: sum_scales(layer) for name, layer in plan.layers.items()}
        self.found: list[Operator] = []
        self._calls: Counter[str] = Counter()

    def take(self, symbol: str, before: bool, arguments: Sequence[Any]) -> None:
        kernel = Kernel.of(symbol, arguments) if before else None
        if kernel is None:
            return
        self._calls[symbol] += 1
        node = symbol if self._calls[symbol] == 1 else f"{symbol}#{self._calls[symbol]}"
        alike = [name for name, steps in self.steps.items() if np.array_equal(steps, kernel.steps)]
        if not alike:
            raise wrong(f"{node} has the scales of no layer")
        seen = Counter(one.mark.name for one in self.found)
        name = min(alike, key=lambda each: seen[each])
        self.found.append(Operator(Mark(name, 0, len(kernel.steps), False), node, "Kernel", node, node))

    def operators(self) -> list[Operator]:
        """BadArtifact unless every layer is among them."""
        if missing := self.plan.layers.keys() - {one.mark.name for one in self.found}:
            raise wrong(f"{min(missing)} is an integer in the plan, and no kernel multiplies by it so")
        return self.found


class Holding:
    """Every call given what the plan gives it, once that was found to be what it would have been given."""

    def __init__(self, operators: Sequence[Operator], plan: QuantPlan, layers: Layers) -> None:
        self.plan, self.layers, self.tally = plan, layers, Tally()
        self._left = list(reversed(operators))
        self._uses: Counter[str] = Counter()
        self._due: tuple[Operator, Array] | None = None

    def take(self, symbol: str, before: bool, arguments: Sequence[Any]) -> None:
        kernel = Kernel.of(symbol, arguments)
        if kernel is None:
            return
        if not before:
            self._result(kernel)
            return
        operator = self._left.pop()
        name, use = operator.mark.name, self._uses[operator.mark.name]
        self._uses[name] += 1
        x, y = self.layers[name if not use else f"{name}#{use + 1}"]
        layer = self.plan.layers[name]
        picture = layer.operator == "conv" and x.ndim == 4
        integers = layer.input.grid().integers(np.moveaxis(x, 1, -1) if picture else x)
        want = _bordered(integers, kernel.given.shape, layer.input.grid().zero_point)
        if want is None:
            raise ParityFailed(f"{operator.node} is given {kernel.given.shape}, the plan {integers.shape}")
        self.tally.take_integers(operator.node, kernel.given, want)
        np.copyto(kernel.given, want)
        self._due = operator, np.moveaxis(y, 1, -1) if picture else y

    def _result(self, kernel: Kernel) -> None:
        if self._due is not None and _BARE.match(kernel.symbol) and kernel.made.dtype == np.float32:
            operator, want = self._due
            self.tally.take(operator.node, self.plan.layers[operator.mark.name], kernel.made.reshape(want.shape), want)


def _bordered(integers: Array, shape: tuple[int, ...], zero: int) -> Array | None:
    """``integers`` in a shape, with a border of zeros around a picture where it has one; None where they do not fit."""
    if integers.size == np.prod(shape):
        return integers.reshape(shape)
    more = [due - have for due, have in zip(shape, integers.shape, strict=False)]
    if len(shape) != integers.ndim or min(more) < 0:
        return None
    return np.pad(integers, [(one // 2, one - one // 2) for one in more], constant_values=zero)
