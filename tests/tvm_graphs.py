"""Random small graphs of what image models are made of, as Relax: what the property test of the schedules draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from hypothesis import strategies as st
from tvm import relax

from edgevit.export.tvm.channels import channels_last
from edgevit.export.tvm.compile import build, fused_kernels
from edgevit.export.tvm.schedules.constants import pack_constants
from edgevit.export.tvm.schedules.machine import Machine
from edgevit.export.tvm.schedules.writing import write
from edgevit.export.tvm.targets import BuildTarget

Expr = Any
ACTIVATIONS = (relax.op.nn.relu, relax.op.nn.gelu, relax.op.nn.silu, relax.op.sigmoid, relax.op.tanh)
SUMS = (relax.op.add, relax.op.subtract, relax.op.maximum)
CHANNELS = (1, 3, 5, 8, 12, 20, 24, 40)
SIDES = (1, 2, 5, 8)


def sizes(value: Expr) -> list[int]:
    return [int(each) for each in value.ty.shape.values]


class Graph:
    """Values of (B, C, H, W), each made from earlier ones by a drawn step."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 999)))
        self.builder = relax.BlockBuilder()
        self.known: list[Expr] = []

    def module(self) -> Any:
        shape = [self.pick((1, 2)), self.pick(CHANNELS), self.pick(SIDES), self.pick(SIDES)]
        image = relax.Var("image", relax.TensorType(shape, "float32"))
        steps = (self.convolve, self.gate, self.gated, self.mask, self.number, self.activate, self.square, self.join)
        steps = (*steps, self.tokens, self.parts, self.beside, self.spread)
        with self.builder.function("main", [image]):
            with self.builder.dataflow():
                self.known = [image]
                for step in self.draw(st.lists(st.sampled_from(steps), min_size=2, max_size=6)):
                    self.known.append(step(self.any()))
                shown = self.pick(([self.known[-1]], [self.known[-1], self.any()]))
                result = self.builder.emit_output(relax.Tuple([self.emit(relax.op.abs(each)) for each in shown]))
            self.builder.emit_func_output(result)
        return self.builder.get()

    def pick(self, among: Any) -> Any:
        return self.draw(st.sampled_from(among))

    def any(self) -> Expr:
        """The last value three times out of four, else any: a residual starts where a branch did."""
        return self.known[-1] if self.draw(st.integers(0, 3)) else self.pick(self.known)

    def emit(self, value: Expr) -> Expr:
        return self.builder.emit(value)

    def constant(self, *shape: int, scale: float = 1.0) -> Expr:
        return relax.const((self.random.normal(size=shape) * scale).astype(np.float32))

    def convolve(self, x: Expr) -> Expr:
        """1x1, 3x3, strided, grouped or depthwise; with a bias, a folded scale, or nothing."""
        channels, side = sizes(x)[1], self.pick((1, 3))
        groups = self.pick([each for each in {1, 2, channels} if channels % each == 0])
        out = channels if groups > 1 else self.pick((channels, *CHANNELS))
        weight = self.constant(out, channels // groups, side, side, scale=(channels // groups * side * side) ** -0.5)
        made = relax.op.nn.conv2d(x, weight, strides=self.pick((1, 1, 2)), padding=side // 2, groups=groups)
        return self.scaled(self.emit(made), out)

    def scaled(self, x: Expr, channels: int) -> Expr:
        for operator in self.pick(((), (relax.op.add,), (relax.op.multiply, relax.op.add))):
            x = self.emit(operator(x, self.constant(1, channels, 1, 1)))
        return x

    def gate(self, x: Expr) -> Expr:
        """Squeeze and excite: (B, C, 1, 1) back over the map that it came from."""
        channels, few = sizes(x)[1], self.pick((1, 2, 6))
        pooled = self.emit(relax.op.mean(x, [2, 3], keepdims=True))
        for inputs, outputs, act in ((channels, few, relax.op.nn.relu), (few, channels, relax.op.sigmoid)):
            weight = self.constant(outputs, inputs, 1, 1, scale=inputs**-0.5)
            made = self.emit(relax.op.nn.conv2d(pooled, weight))
            pooled = self.emit(act(self.emit(relax.op.add(made, self.constant(1, outputs, 1, 1)))))
        return self.emit(relax.op.multiply(*self.pick(((x, pooled), (pooled, x)))))

    def gated(self, x: Expr) -> Expr:
        """A gated convolution beside its input: the gate's convolution is followed by all of it."""
        weight = self.constant(sizes(x)[1], sizes(x)[1], 1, 1, scale=sizes(x)[1] ** -0.5)
        return self.join(self.number(self.gate(self.emit(relax.op.nn.conv2d(x, weight)))))

    def square(self, x: Expr) -> Expr:
        """Values that are read twice, and so kept in memory, made from values that are."""
        for _ in range(self.pick((1, 2))):
            x = self.emit(relax.op.multiply(x, self.emit(relax.op.sigmoid(self.number(x)))))
        return x

    def mask(self, x: Expr) -> Expr:
        """(B, 1, H, W) over all channels: computed, or a constant."""
        if self.draw(st.booleans()):
            return self.emit(relax.op.multiply(x, self.constant(1, 1, *sizes(x)[2:])))
        mean = self.emit(relax.op.mean(x, [1], keepdims=True))
        return self.emit(relax.op.multiply(x, self.emit(relax.op.sigmoid(mean))))

    def number(self, x: Expr) -> Expr:
        operator = self.pick((relax.op.add, relax.op.multiply))
        return self.emit(operator(x, relax.const(np.float32(self.pick((0.01, 0.5, -1.5))))))

    def activate(self, x: Expr) -> Expr:
        return self.emit(self.pick(ACTIVATIONS)(x))

    def join(self, x: Expr) -> Expr:
        """One or two earlier values of the same shape, or itself, added, before or after an activation."""
        like = [each for each in self.known if sizes(each) == sizes(x)]
        for _ in range(self.pick((1, 2))):
            x = self.emit(self.pick(SUMS)(x, self.pick(like)))
        return self.activate(x) if self.draw(st.booleans()) else x

    def parts(self, x: Expr) -> Expr:
        """Halves of the channels, each read twice, and joined again."""
        if sizes(x)[1] % 2:
            return self.beside(x)
        halves = self.emit(relax.op.split(x, 2, axis=1))
        first, second = (self.emit(halves[at]) for at in (0, 1))
        gated = self.emit(relax.op.multiply(first, self.emit(relax.op.sigmoid(second))))
        return self.emit(relax.op.concat([gated, self.emit(self.pick(SUMS)(second, first))], axis=1))

    def beside(self, x: Expr) -> Expr:
        """A value and a convolution of it, joined; either may be read again."""
        few = self.pick((1, 4, 9))
        made = self.emit(relax.op.nn.conv2d(x, self.constant(few, sizes(x)[1], 1, 1, scale=sizes(x)[1] ** -0.5)))
        self.known.append(self.scaled(made, few))
        return self.emit(relax.op.concat(self.pick(([x, self.known[-1]], [self.known[-1], x])), axis=1))

    def spread(self, x: Expr) -> Expr:
        """A mean over the map, or over the channels, beside what it is of; as it is, or convolved."""
        mean = self.emit(relax.op.mean(x, self.pick(([2, 3], [1], [1, 2, 3])), keepdims=True))
        if sizes(mean)[1] > 1 and self.draw(st.booleans()):
            channels = sizes(x)[1]
            mean = self.emit(relax.op.nn.conv2d(mean, self.constant(channels, channels, 1, 1, scale=channels**-0.5)))
        return self.emit(self.pick(SUMS)(*self.pick(((x, mean), (mean, x)))))

    def tokens(self, x: Expr) -> Expr:
        """Channels last for a normalisation and a linear layer, and back."""
        channels = sizes(x)[1]
        y = self.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))
        if self.draw(st.booleans()):
            y = self.emit(relax.op.nn.layer_norm(y, self.constant(channels), self.constant(channels), axes=[-1]))
        if self.draw(st.booleans()):
            y = self.emit(relax.op.matmul(y, self.constant(channels, channels, scale=channels**-0.5)))
        return self.emit(relax.op.permute_dims(y, [0, 3, 1, 2]))


@st.composite
def graphs(draw: Callable[[Any], Any]) -> Any:
    """Fused functions that no schedule has touched, with the channels last or as they were drawn."""
    module = Graph(draw).module()
    return fused_kernels(channels_last(module) if draw(st.booleans()) else module)[2]


def machines() -> Any:
    return st.builds(
        Machine, lanes=st.sampled_from((4, 8, 16)), registers=st.sampled_from((16, 32)), threads=st.just(1)
    )


def scheduled(module: Any, machine: Machine) -> Any:
    functions = [(variable, each) for variable, each in module.functions_items() if isinstance(each, tvm.tirx.PrimFunc)]
    return pack_constants(module, {variable: write(each, machine, None) for variable, each in functions})


def outputs(module: Any, target: BuildTarget, image: np.ndarray) -> list[np.ndarray]:
    machine = relax.VirtualMachine(build(module, target), tvm.cpu())
    return [each.numpy() for each in machine["main"](tvm.runtime.tensor(image))]
