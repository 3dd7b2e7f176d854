"""The integers of an IR, read back and held against the plan to the last bit; its operators, each alone.

OpenVINO writes a pair of quantize and dequantize as FakeQuantize (with the two ends of the grid in place of its scale),
Convert, Subtract and Multiply; a weight's as the last three.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.engines.intel import BIASED, marks_of, ov
from edgevit.quantize.operators import Mark, Operator, require_whole, wrong
from edgevit.quantize.plan import LEVELS, Grid, QuantPlan

_KINDS = {"Convolution": "Conv", "GroupConvolution": "Conv", "MatMul": "MatMul"}
_MOVED = ("Reshape", "Convert")  # what may lie between a constant and its reader


@dataclass(frozen=True)
class Dequantized:
    """A value that is made of integers: which, and the constants that turn them into floats, as they are broadcast."""

    integers: Any
    scale: Array
    zero: Array


@dataclass(frozen=True)
class Stored:
    """A file's graph: ``marks`` are the name of a product -> the text of its mark."""

    model: Any
    marks: Mapping[str, str]

    @classmethod
    def of(cls, model: Any) -> Stored:
        """BadArtifact for marks that cannot be read."""
        try:
            found = json.loads(marks_of(model) or "{}")
        except ValueError as exc:
            raise wrong("what it says of its operators is no JSON") from exc
        if not isinstance(found, dict):
            raise wrong("what it says of its operators names none")
        return cls(model, {str(name): str(text) for name, text in found.items()})

    def operators(self, plan: QuantPlan) -> list[Operator]:
        """All of them, in order. BadArtifact unless each is as the plan has it, and none is missing."""
        known = {node.get_friendly_name(): node for node in self.model.get_ordered_ops()}
        if missing := self.marks.keys() - known.keys():
            raise wrong(f"it has no operation {min(missing)}")
        found = [_operator(node, Mark.of(self.marks[name]), plan) for name, node in known.items() if name in self.marks]
        require_whole(found, plan)
        return found

    def pieces(
        self, places: Sequence[tuple[str, str]], given: Iterable[Array], compiled: Callable[[Any], Any]
    ) -> Iterator[Array]:
        """What the file makes of each of ``given`` between two of its values, as ``compiled`` runs a model."""
        for (x, y), rows in zip(places, given, strict=True):
            nodes = {node.get_friendly_name(): node for node in self.model.clone().get_ops()}
            start = ov.op.Parameter(ov.Type.f32, ov.Shape(list(rows.shape)))
            nodes[x].input(0).replace_source_output(start.output(0))
            request = compiled(ov.Model([nodes[y].output(0)], [start])).create_infer_request()
            yield next(iter(request.infer([np.ascontiguousarray(rows)]).values())).copy()


def _operator(product: Any, mark: Mark, plan: QuantPlan) -> Operator:
    name, layer = str(product.get_friendly_name()), plan.layers.get(mark.name)
    if product.get_type_name() not in _KINDS:
        raise wrong(f"{name} is no convolution and no product")
    if layer is None or not 0 <= mark.start < mark.stop <= len(layer.scales):
        raise wrong(f"{name} computes {mark.name} in integers, which the plan does not")
    first = _pair(product.input_value(0), layer.input.grid(), f"the input of {name}")
    _weight(product, np.array(layer.scales, np.float32)[mark.start : mark.stop], f"the weight of {name}")
    kind = _KINDS[product.get_type_name()]
    if kind == "MatMul" and len(product.get_input_partial_shape(0)) == 2:
        kind = "Gemm"  # tokens of all rows in one axis
    biased = mark.added or name.endswith(BIASED)
    last = _sum(product, name) if biased else product
    return Operator(mark, name, kind, str(first.get_friendly_name()), str(last.get_friendly_name()))


def _sum(product: Any, what: str) -> Any:
    """The addition of its bias. OpenVINO writes a Gemm's factor of 1 between."""
    readers = [reader.get_node() for reader in product.output(0).get_target_inputs()]
    found = [reader for reader in readers if reader.get_type_name() != "ShapeOf"]
    if len(found) == 1 and found[0].get_type_name() == "Multiply":
        return _sum(found[0], what)
    if len(found) != 1 or found[0].get_type_name() != "Add":
        raise wrong(f"what {what} computes is not read by one Add alone")
    return found[0]


def _pair(value: Any, grid: Grid, what: str) -> Any:
    """The node that puts a value on a grid."""
    found = _dequantized(value, what)
    _same(found.scale, np.float32(grid.scale), f"the scale of {what}")
    _same(found.zero, np.float32(grid.zero_point), f"the zero point of {what}")
    first = _made(_made(found.integers, "Convert", what).input_value(0), "FakeQuantize", what)
    if found.integers.get_element_type() != ov.Type.u8 or first.get_attributes()["levels"] != LEVELS + 1:
        raise wrong(f"{what} is put on no grid of {LEVELS + 1} unsigned integers")
    ends = [np.float32(level - grid.zero_point) * np.float32(grid.scale) for level in (0, LEVELS)]
    for place, end in enumerate((*ends, np.float32(0), np.float32(LEVELS)), start=1):
        _same(_constant(first.input_value(place), what), end, f"an end of the grid of {what}")
    return first


def _weight(product: Any, scales: Array, what: str) -> None:
    value = product.input_value(1)
    if product.get_type_name() == "GroupConvolution":  # (O, I/G, …) is split into (G, O/G, I/G, …)
        value = _made(value, "Reshape", what).input_value(0)
    found = _dequantized(value, what)
    stored = found.integers.get_node()
    if stored.get_type_name() != "Constant" or found.integers.get_element_type() != ov.Type.i8:
        raise wrong(f"{what} is not stored as int8")
    axis = 1 if product.get_type_name() == "MatMul" and not product.get_attributes()["transpose_b"] else 0
    shape = [1] * len(found.integers.get_shape())
    shape[axis] = len(scales)
    if list(found.scale.shape) != shape:
        raise wrong(f"the scales of {what} are of another axis than {axis}")
    _same(found.scale.ravel(), scales, f"the scale of {what}")
    if found.zero.any():
        raise wrong(f"{what} has another zero point than the plan")


def _dequantized(value: Any, what: str) -> Dequantized:
    last = _made(value, "Multiply", what)
    below, zero = last.input_value(0), np.zeros((), np.float32)
    if below.get_node().get_type_name() == "Subtract":
        zero = _constant(below.get_node().input_value(1), what)
        below = below.get_node().input_value(0)
    integers = _made(below, "Convert", what).input_value(0)
    return Dequantized(integers, _constant(last.input_value(1), what), zero)


def _constant(value: Any, what: str) -> Array:
    """The numbers of a value, in its shape; BadArtifact where they are computed."""
    node = value.get_node()
    while node.get_type_name() in _MOVED:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        raise wrong(f"{what} has a scale, or a zero point, that is computed")
    found: Array = np.asarray(node.data).reshape(tuple(value.get_shape())).astype(np.float32)
    return found


def _same(got: Array, want: Any, what: str) -> None:
    if not np.array_equal(got.ravel(), np.asarray(want).ravel()):
        raise wrong(f"{what} is another than the plan's")


def _made(value: Any, kind: str, what: str) -> Any:
    node = value.get_node()
    if node.get_type_name() != kind:
        raise wrong(f"{what} is made by no {kind}: a pair is missing")
    return node
