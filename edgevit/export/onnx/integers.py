"""A float32 graph with pairs of QuantizeLinear and DequantizeLinear where a plan says so, as its engine fuses them.

ONNX Runtime has unsigned activations on x86, signed ones on Arm, signed weights per output channel, int32 biases. A
product's result stays float; that of a convolution is put on a grid, without which ONNX Runtime computes it in float.
TensorRT has signed, symmetric activations and float biases. Pairs stand around operators with weights only: anywhere
else they cost more than they save.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgevit.export.onnx.edit import Array, constant_of, initializer, int_attribute, new_node, shape_of, sole_user
from edgevit.export.onnx.graph import module_of
from edgevit.quantize.narrow import Stored, stored
from edgevit.quantize.operators import Mark
from edgevit.quantize.pairs import LAYER
from edgevit.quantize.parts import computed_all, first_channel
from edgevit.quantize.plan import (
    Encoding,
    Grid,
    Layer,
    QuantPlan,
    Weight,
    bias_integers,
    sum_scales,
    weight_integers,
    zero_point,
)
from edgevit.quantize.sites import Sites

NOT_IN_GRAPH = "the ONNX graph does not multiply by it as the program does"
_WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Emitted:
    """A plan's layer, or some of its output channels, as the graph has it.

    name      of the weight in the plan
    start     of the output channels that it computes, ``stop`` their end
    node      the graph's operator; ``x`` and ``y`` are the float values around it and its pairs
    """

    name: str
    start: int
    stop: int
    node: ir.Node
    x: ir.Value
    y: ir.Value


def to_integers(model: ir.Model, plan: QuantPlan, sites: Sites) -> tuple[QuantPlan, list[Emitted]]:
    """Put the pairs in, in place, around every operator whose weight is one of the plan's; what was done, and the plan
    without the layers that the graph computes otherwise: those stay float wherever they are used."""
    known = _Known(plan, sites.weights)
    parts = [(node, part) for node in model.graph if _weighted(node) and (part := known.part_of(node)) is not None]
    uses = Counter(site.name for site in sites.taken)
    cuts = {name: [(one.start, one.stop) for _, one in parts if one.name == name] for name in plan.layers}
    held = {name for name in cuts if computed_all(cuts[name], len(plan.layers[name].scales), uses[name])}
    left = {name: NOT_IN_GRAPH for name in plan.layers if name not in held}
    pairs = _Pairs(model.graph, plan.encoding)
    emit = _emit_weight if plan.encoding.weights_alone else _emit
    found = [emit(pairs, node, part) for node, part in parts if part.name in held]
    return (plan.without(left) if left else plan), found


def _weighted(node: ir.Node) -> bool:
    return node.op_type in _WEIGHTED and node.domain == ""


# --- which layer a node is -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Output channels of a layer that one node computes; ``added`` is the node that adds its bias, if another does."""

    name: str
    layer: Layer
    start: int
    values: Array
    bias: Array | None
    added: ir.Node | None = None

    @property
    def stop(self) -> int:
        return self.start + len(self.values)


@dataclass(frozen=True)
class _Known:
    """A plan's layers, and the numbers to know their operators by: converters rename, transpose and split weights."""

    plan: QuantPlan
    weights: Mapping[str, Weight]

    def part_of(self, node: ir.Node) -> _Part | None:
        weight = _weight_of(node)
        if weight is None or not _plain(node):
            return None
        names = [*self._of_module(module_of(node)), *self.plan.layers]
        for name in dict.fromkeys(names):
            start = first_channel(weight, self.weights[name].values)
            part = None if start is None else self._fitting(node, name, start, len(weight))
            if part is not None:
                return part
        return None

    def _of_module(self, path: str) -> Iterator[str]:
        return (name for name, layer in self.plan.layers.items() if path in layer.modules)

    def _fitting(self, node: ir.Node, name: str, start: int, count: int) -> _Part | None:
        """The part, if the node is of its kind and adds its bias and no other."""
        layer, weight = self.plan.layers[name], self.weights[name]
        if (node.op_type == "Conv") != (layer.operator == "conv") or (layer.relu and _relu_of(node) is None):
            return None
        cut = slice(start, start + count)
        bias = None if weight.bias is None else weight.bias[cut]
        added = sole_user(node.outputs[0]) if node.op_type == "MatMul" and bias is not None else None
        given = _added_by(added, node) if added is not None else _third(node)
        if given is None and bias is not None and not bias.any():  # converters leave out what adds nothing
            bias = added = None
        if (given is None) != (bias is None) or (bias is not None and not np.array_equal(bias, given)):  # type: ignore[arg-type]
            return None
        return _Part(name, layer, start, weight.values[cut], bias, added)


def _weight_of(node: ir.Node) -> Array | None:
    """A node's constant weight with the output channels first."""
    array = constant_of(node.inputs[1])
    if array is None or array.dtype != np.float32 or constant_of(node.inputs[0]) is not None:
        return None
    if node.op_type == "Conv":
        return array
    if array.ndim != 2:
        return None
    return array if int_attribute(node, "transB", 0) else array.T


def _plain(node: ir.Node) -> bool:
    """Whether a Gemm scales nothing and does not transpose what it is given."""
    scales = [node.attributes[name].as_float() for name in ("alpha", "beta") if name in node.attributes]
    return all(scale == 1.0 for scale in scales) and not int_attribute(node, "transA", 0)


def _third(node: ir.Node) -> Array | None:
    return constant_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None


def _added_by(add: ir.Node, product: ir.Node) -> Array | None:
    """The constant that an Add adds to a product."""
    if add.op_type != "Add":
        return None
    other = add.inputs[1] if add.inputs[0] is product.outputs[0] else add.inputs[0]
    array = constant_of(other)
    return array if array is not None and array.ndim == 1 else None


def _relu_of(node: ir.Node) -> ir.Node | None:
    user = sole_user(node.outputs[0])
    return user if user is not None and user.op_type == "Relu" else None


# --- what is put in --------------------------------------------------------------------------------------------------


@dataclass
class _Pairs:
    """Pairs of one graph: a value that several layers read in the same integers has one."""

    graph: ir.Graph
    encoding: Encoding
    known: dict[tuple[int, Grid], ir.Value] = field(default_factory=dict)

    def around(self, value: ir.Value, grid: Grid, before: ir.Node) -> ir.Value:
        """``value`` on a grid, as float."""
        key = (id(value), grid)
        if key not in self.known:
            scale, zero = self._scalars(grid)
            integer = new_node(before, "QuantizeLinear", [value, scale, zero], shape_of(value))
            integer.dtype = ir.DataType[self.encoding.activations.upper()]
            self.known[key] = new_node(before, "DequantizeLinear", [integer, scale, zero], shape_of(value))
            self.known[key].dtype = ir.DataType.FLOAT
        return self.known[key]

    def constant(self, name: str, array: Array, scales: Array, axis: int, before: ir.Node) -> ir.Value:
        """Integers as float: a weight with its channels on ``axis``, or a bias."""
        stored = initializer(self.graph, name, array)
        zeros = initializer(self.graph, f"{name}_zero", np.zeros(len(scales), array.dtype))
        inputs: list[ir.Value | None] = [stored, initializer(self.graph, f"{name}_scale", scales), zeros]
        made = new_node(before, "DequantizeLinear", inputs, list(array.shape), axis=axis)
        made.dtype = ir.DataType.FLOAT
        return made

    def weight(self, part: _Part, own: Stored, before: ir.Node) -> ir.Value:
        """A weight that alone is integers, (O, I, …) times scales of channels, or of groups of inputs."""
        if own.scales is None:
            raise ValueError(f"{part.name} has no scales")
        group, sides, name = part.layer.group, own.values.shape, f"{part.name}_int{part.layer.bits}"
        inner = sides if group is None else (sides[0], sides[1] // group, group, *sides[2:])
        scales = own.scales.reshape(-1, *[1] * (len(sides) - 1)) if group is None else own.scales[:, :, None]
        whole = own.integers.reshape(inner)
        stored = initializer(self.graph, name, whole.astype(ml_dtypes.int4) if part.layer.bits == 4 else whole)
        cast = self._float(new_node(before, "Cast", [stored], list(inner), to=ir.DataType.FLOAT))
        scale = initializer(self.graph, f"{name}_scale", scales)
        made = self._float(new_node(before, "Mul", [cast, scale], list(inner)))
        if group is None:
            return made
        shape = initializer(self.graph, f"{name}_shape", np.array(sides, np.int64))
        return self._float(new_node(before, "Reshape", [made, shape], list(sides)))

    @staticmethod
    def _float(value: ir.Value) -> ir.Value:
        value.dtype = ir.DataType.FLOAT
        return value

    def _scalars(self, grid: Grid) -> tuple[ir.Value, ir.Value]:
        scale = initializer(self.graph, "scale", np.array(grid.scale, np.float32))
        return scale, initializer(self.graph, "zero_point", np.array(zero_point(grid, self.encoding)))


def _emit(pairs: _Pairs, node: ir.Node, part: _Part) -> Emitted:
    x, layer, stop = node.inputs[0], part.layer, part.stop
    if x is None:
        raise ValueError(f"{node.name} multiplies nothing")
    node.replace_input_with(0, pairs.around(x, layer.input.grid(), node))
    cut = slice(part.start, stop)
    scales = np.array(layer.scales, np.float32)[cut]
    part_of = layer.model_copy(update={"scales": tuple(map(float, scales))})
    whole = weight_integers(part_of, part.values)
    turned = node.op_type != "Conv" and not int_attribute(node, "transB", 0)
    stored = np.ascontiguousarray(whole.T) if turned else whole
    node.replace_input_with(1, pairs.constant(f"{part.name}_int8", stored, scales, int(turned), node))
    if part.bias is not None:
        _emit_bias(pairs, node, part, bias_integers(part_of, part.bias), sum_scales(part_of))
    y = _on_grid(pairs, node, layer) if layer.output is not None else (part.added or node).outputs[0]
    node.metadata_props[LAYER] = Mark(part.name, part.start, stop, part.added is not None).text()
    return Emitted(part.name, part.start, stop, node, x, y)


def _emit_weight(pairs: _Pairs, node: ir.Node, part: _Part) -> Emitted:
    """The weight alone, as a product of constants, which every session computes once, when it is opened. ONNX Runtime
    takes a MatMul by a DequantizeLinear as leave to round what it is multiplied with to int8 too, and dequantises for
    every inference where it does not."""
    x, layer = node.inputs[0], part.layer
    if x is None:
        raise ValueError(f"{node.name} multiplies nothing")
    value = pairs.weight(part, stored(layer, part.values, pairs.encoding), node)
    if node.op_type != "Conv" and not int_attribute(node, "transB", 0):
        value = new_node(node, "Transpose", [value], list(reversed(part.values.shape)), perm=[1, 0])
        value.dtype = ir.DataType.FLOAT
    node.replace_input_with(1, value)
    node.metadata_props[LAYER] = Mark(part.name, part.start, part.stop, part.added is not None).text()
    return Emitted(part.name, part.start, part.stop, node, x, (part.added or node).outputs[0])


def _emit_bias(pairs: _Pairs, node: ir.Node, part: _Part, bias: Array, steps: Array) -> None:
    """In int32 where operator and engine take it; else, and behind a MatMul, as the floats that these integers are."""
    name = f"{part.name}_bias"
    if part.added is None and pairs.encoding.biases == "int32":
        node.replace_input_with(2, pairs.constant(name, bias, steps, 0, node))
        return
    floats = initializer(pairs.graph, name, (bias.astype(np.float64) * steps).astype(np.float32))
    if part.added is None:
        node.replace_input_with(2, floats)
    else:
        part.added.replace_input_with(0 if part.added.inputs[1] is node.outputs[0] else 1, floats)


def _on_grid(pairs: _Pairs, node: ir.Node, layer: Layer) -> ir.Value:
    """The result of a convolution, behind its ReLU if it has one, on its grid for all that read it."""
    last = (_relu_of(node) if layer.relu else None) or node
    value = last.outputs[0]
    if layer.output is None or not isinstance(last.graph, ir.Graph):
        raise ValueError(f"{node.name} has no grid for its result")
    readers = [(use.node, use.idx) for use in value.uses()]
    after = ir.node("Identity", [value], metadata_props=dict(node.metadata_props))
    after.outputs[0].dtype = value.dtype
    last.graph.insert_after(last, after)
    made = pairs.around(value, layer.output.grid(), after)
    last.graph.remove(after, safe=True)
    for reader, place in readers:
        reader.replace_input_with(place, made)
    if value.is_graph_output():
        for index, output in enumerate(list(pairs.graph.outputs)):
            if output is value:
                pairs.graph.outputs[index] = made
    return made
