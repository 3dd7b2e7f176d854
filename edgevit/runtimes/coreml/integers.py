"""The integers in a saved package, read back and held against the plan to the last bit; its operators, each alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.quantize.narrow import checks
from edgevit.quantize.operators import Mark, Operator, require_whole, wrong
from edgevit.quantize.plan import Encoding, Grid, Layer, QuantPlan, zero_point
from edgevit.runtimes.coreml.ops.quantisation import (
    constexpr_affine_dequantize,
    constexpr_blockwise_shift_scale,
    constexpr_lut_to_dense,
)
from edgevit.runtimes.coreml.plan import read_marks
from edgevit.runtimes.coreml.program import piece, read

_STORED: Mapping[str, Callable[..., Array]] = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
}
_KINDS = {"conv": "Conv", "linear": "Linear", "matmul": "MatMul"}


@dataclass(frozen=True)
class Stored:
    """A package's function.

    marks  name of an operation's result -> the text of its mark
    """

    function: Any
    marks: Mapping[str, str]

    @classmethod
    def of(cls, artifact: Artifact) -> Stored:
        """BadArtifact for a package that cannot be read."""
        with artifact.privately() as private:
            _, function = read(private.entry)
        return cls(function, read_marks(artifact))

    def operators(self, plan: QuantPlan) -> list[Operator]:
        """All of them, in order. BadArtifact unless each is as the plan has it, and none is missing."""
        known = {one.outputs[0].name: one for one in self.function.operations if one.op_type in _KINDS}
        if missing := self.marks.keys() - known.keys():
            raise wrong(f"it has no operation {min(missing)}")
        found = [_operator(one, Mark.of(self.marks[name]), plan) for name, one in known.items() if name in self.marks]
        require_whole(found, plan)
        return found

    def pieces(self, places: Sequence[tuple[str, str]], given: Iterable[Array]) -> Iterator[Array]:
        """What the package makes of each of ``given`` between two of its values, in float32 sums."""
        variables = {value.name: value for one in self.function.operations for value in one.outputs}
        variables |= {value.name: value for value in self.function.inputs.values()}
        for (x, y), rows in zip(places, given, strict=True):
            between = self._between(variables[x], variables[y])
            yield piece(between, variables[x], variables[y]).run({"x": rows})["y"]

    def _between(self, x: Any, y: Any) -> list[Any]:
        needed, seen = [y], {id(x)}
        made: set[int] = set()
        while needed:
            value = needed.pop()
            if id(value) in seen or value.op is None:
                continue
            seen.add(id(value))
            made.add(id(value.op))
            for one in value.op.inputs.values():
                needed += one if isinstance(one, list | tuple) else [] if one is None else [one]
        return [one for one in self.function.operations if id(one) in made]


def _operator(operation: Any, mark: Mark, plan: QuantPlan) -> Operator:
    name = str(operation.outputs[0].name)
    layer = plan.layers.get(mark.name)
    if layer is None or not 0 <= mark.start < mark.stop <= len(layer.scales):
        raise wrong(f"{name} computes {mark.name} in integers, which the plan does not")
    what = f"the input of {name}"
    cut = slice(mark.start, mark.stop)
    if plan.encoding.weights_alone:
        x = _bare(operation.x, what)
        _alone(operation, (layer.checks or ())[cut], f"the weight of {name}")
    else:
        x = _pair(operation.x, layer.input.grid(), plan.encoding, what)
        _weight(operation, np.array(layer.scales, np.float32)[cut], f"the weight of {name}")
    return Operator(mark, name, _kind(operation, layer), x, name)


def _kind(operation: Any, layer: Layer) -> str:
    tokens = operation.op_type == "conv" and layer.operator == "linear"
    return "Tokens" if tokens else _KINDS[operation.op_type]


def _bare(value: Any, what: str) -> str:
    """The name of a float value that is on no grid."""
    if value.op is not None and value.op.op_type == "dequantize":
        raise wrong(f"{what} is on a grid, and weights alone are integers")
    return str(value.name)


def _pair(value: Any, grid: Grid, encoding: Encoding, what: str) -> str:
    """The name of the float value before a pair of a grid."""
    second = _maker(value, "dequantize", what)
    first = _maker(second.input, "quantize", what)
    if str(first.output_dtype.val) != encoding.activations:
        raise wrong(f"{what} is stored as {first.output_dtype.val}, not {encoding.activations}")
    for one in (first, second):
        _same(one.scale.val, np.array(grid.scale, np.float32), "scale", what)
        given = one.zero_point
        zero = zero_point(grid, encoding)
        _same(np.zeros((), zero.dtype) if given is None else given.val, np.array(zero), "zero point", what)
        if one.axis is not None and one.axis.val is not None:
            raise wrong(f"{what} has scales along an axis")
    return str(first.input.name)


def _alone(operation: Any, due: tuple[int, ...], what: str) -> None:
    """A weight that alone is integers, or places in a table, which stand for the numbers of the plan."""
    turned = operation.op_type == "matmul" and not operation.transpose_y.val
    stored = operation.y.op if operation.op_type == "matmul" else operation.weight.op
    if stored is None or stored.op_type not in _STORED:
        raise wrong(f"{what} is not stored as integers")
    given = {name: None if value is None else value.val for name, value in stored.inputs.items()}
    values = _STORED[stored.op_type](**given).astype(np.float32)
    if checks(values.T if turned else values) != due:
        raise wrong(f"{what} stands for other numbers than the plan has")


def _weight(operation: Any, scales: Array, what: str) -> None:
    turned = operation.op_type == "matmul" and not operation.transpose_y.val
    axis = int(turned)
    stored = operation.y.op if operation.op_type == "matmul" else operation.weight.op
    if stored is None or not stored.op_type.startswith("constexpr_"):
        raise wrong(f"{what} is not stored as integers: a pair is missing")
    if stored.op_type == "constexpr_affine_dequantize":
        data, scale, zero = stored.quantized_data.val, stored.scale.val, stored.zero_point.val
        if int(stored.axis.val) % data.ndim != axis:
            raise wrong(f"the scales of {what} are of another axis than {axis}")
    elif stored.op_type == "constexpr_blockwise_shift_scale":
        data, scale, zero = stored.data.val, stored.scale.val, stored.offset.val if stored.offset is not None else 0
        if scale.shape != tuple(len(scales) if place == axis else 1 for place in range(data.ndim)):
            raise wrong(f"the scales of {what} are of another axis than {axis}")
    else:
        raise wrong(f"{what} is stored by {stored.op_type}")
    if data.dtype != np.int8 or data.shape[axis] != len(scales):
        raise wrong(f"{what} is no int8 of {len(scales)} channels on axis {axis}")
    _same(np.reshape(scale, -1), scales, "scale", what)
    _same(np.unique(zero), np.zeros(1), "zero point", what)


def _maker(value: Any, kind: str, what: str) -> Any:
    if value.op is None or value.op.op_type != kind:
        raise wrong(f"{what} is made by no {kind}: a pair is missing")
    return value.op


def _same(got: Any, want: Array, said: str, what: str) -> None:
    """Numbers of any type that are the very same."""
    if not np.array_equal(np.asarray(got, np.float64), np.asarray(want, np.float64)):
        raise wrong(f"{what} has another {said} than the plan")
