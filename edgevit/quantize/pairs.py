"""The pairs of QuantizeLinear and DequantizeLinear in an ONNX file, read back and held against the plan.

What decides an integer is compared to the last bit: a zero point that is off by one at both ends of a pair moves no
number until something reaches the end of its grid. Free of torch; it needs the package onnx.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from edgevit.errors import BadArtifact
from edgevit.quantize.narrow import checks
from edgevit.quantize.operators import Mark, Operator, require_whole, wrong
from edgevit.quantize.plan import Array, Encoding, Grid, Layer, QuantPlan, sum_scales, zero_point

LAYER = "edgevit.layer"  # key of a node's metadata: JSON of a ``Mark``


class Pairs:
    """Those of one file. BadArtifact for a file that is no ONNX."""

    def __init__(self, path: Path) -> None:
        try:
            self.model: ModelProto = onnx.load(str(path))
        except Exception as exc:  # protobuf's own kinds
            raise BadArtifact(f"{path} is no ONNX file", hint="export anew") from exc
        graph = self.model.graph
        self.made = {name: node for node in graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def operators(self, plan: QuantPlan) -> list[Operator]:
        """All of them, in order. BadArtifact unless each is as the plan has it, and none is missing."""
        found = [self._operator(node, mark, plan) for node, mark in self._marked()]
        require_whole(found, plan)
        return found

    def weights(self, operators: Sequence[Operator]) -> dict[str, Array]:
        """Node -> the integers that it multiplies by."""
        nodes = {node.name: node for node in self.model.graph.node}
        stored = {one.node: self._array(self.made[nodes[one.node].input[1]].input[0]) for one in operators}
        return {node: array for node, array in stored.items() if array is not None}

    def pieces(self, places: Sequence[tuple[str, str]]) -> Iterator[ModelProto]:
        """For each (x, y) a model of its own that makes y of x."""
        for x, y in places:
            yield self._piece(x, y)

    def _marked(self) -> Iterator[tuple[NodeProto, Mark]]:
        for node in self.model.graph.node:
            for entry in node.metadata_props:
                if entry.key == LAYER:
                    yield node, Mark.of(entry.value)

    def _operator(self, node: NodeProto, mark: Mark, plan: QuantPlan) -> Operator:
        layer = plan.layers.get(mark.name)
        if layer is None or not 0 <= mark.start < mark.stop <= len(layer.scales):
            raise wrong(f"{node.name} computes {mark.name} in integers, which the plan does not")
        if plan.encoding.weights_alone:
            return self._alone(node, mark, plan)
        x = self._pair(node.input[0], layer.input.grid(), plan.encoding, f"the input of {node.name}")
        cut = slice(mark.start, mark.stop)
        self._weight(node, np.array(layer.scales, np.float32)[cut])
        if len(node.input) > 2 and node.input[2] and plan.encoding.biases == "int32":
            self._constant(node.input[2], np.int32, sum_scales(layer)[cut], 0, f"the bias of {node.name}")
        return Operator(mark, node.name, node.op_type, x, self._result(node, mark, layer, plan.encoding))

    def _alone(self, node: NodeProto, mark: Mark, plan: QuantPlan) -> Operator:
        """An operator whose weight alone is integers, which stand for the numbers of the plan."""
        what, name = f"the weight of {node.name}", node.input[1]
        turned = node.op_type != "Conv" and not _attribute(node, "transB", 0)
        if turned:
            name = self._maker(name, "Transpose", what).input[0]
        cut = slice(mark.start, mark.stop)
        if checks(self._multiplied(name, what)) != (plan.layers[mark.name].checks or ())[cut]:
            raise wrong(f"{what} stands for other numbers than the plan has")
        result = self._result(node, mark, plan.layers[mark.name], plan.encoding)
        return Operator(mark, node.name, node.op_type, node.input[0], result)

    def _multiplied(self, name: str, what: str) -> Array:
        """Integers times their scales, in float32, and in the shape of the weight."""
        made, shape = self.made.get(name), None
        if made is not None and made.op_type == "Reshape":
            name, shape = made.input[0], self._array(made.input[1])
        product = self._maker(name, "Mul", what)
        stored = self._array(self._maker(product.input[0], "Cast", what).input[0])
        scales = self._array(product.input[1])
        if stored is None or scales is None or stored.dtype.kind not in "iV":
            raise wrong(f"{what} is no constant of integers")
        found: Array = stored.astype(np.int8).astype(np.float32) * scales
        return found if shape is None else found.reshape(shape)

    def _pair(self, name: str, grid: Grid, encoding: Encoding, what: str) -> str:
        """The float value before a pair of a grid."""
        second = self._maker(name, "DequantizeLinear", what)
        first = self._maker(second.input[0], "QuantizeLinear", what)
        for node in (first, second):
            self._same(node, np.float32(grid.scale), zero_point(grid, encoding), what)
        return str(first.input[0])

    def _weight(self, node: NodeProto, scales: Array) -> None:
        axis = 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1
        self._constant(node.input[1], np.int8, scales, axis, f"the weight of {node.name}")

    def _constant(self, name: str, dtype: Any, scales: Array, axis: int, what: str) -> None:
        node = self._maker(name, "DequantizeLinear", what)
        stored = self._array(node.input[0])
        if stored is None or stored.dtype != dtype or stored.shape[axis] != len(scales):
            raise wrong(f"{what} is no {np.dtype(dtype)} of {len(scales)} channels on axis {axis}")
        if _attribute(node, "axis", 1) != axis:
            raise wrong(f"the scales of {what} are of another axis than {axis}")
        self._same(node, scales, np.zeros(len(scales), dtype), what)

    def _same(self, node: NodeProto, scale: Any, zero: Any, what: str) -> None:
        found = [self._array(name) for name in node.input[1:3]]
        for said, got, want in zip(("scale", "zero point"), found, (scale, zero), strict=True):
            if got is None or got.dtype != want.dtype or not np.array_equal(got, want):
                raise wrong(f"{what} has another {said} than the plan")

    def _result(self, node: NodeProto, mark: Mark, layer: Layer, encoding: Encoding) -> str:
        """The float value behind an operator, its bias and its pair."""
        value = str(node.output[0])
        for kind in (["Add"] if mark.added else []) + (["Relu"] if layer.relu else []):
            (value,) = (str(name) for name in self._reader(value, kind, node.name).output)
        if layer.output is None:
            return value
        pair = self._reader(value, "QuantizeLinear", node.name)
        second = self._reader(pair.output[0], "DequantizeLinear", node.name)
        self._pair(second.output[0], layer.output.grid(), encoding, f"the result of {node.name}")
        return str(second.output[0])

    def _reader(self, name: str, kind: str, what: str) -> NodeProto:
        """The only node that reads a value."""
        found = self.readers.get(name, [])
        ends = {value.name for value in self.model.graph.output}
        if len(found) != 1 or found[0].op_type != kind or name in ends:
            raise wrong(f"what {what} computes is not read by one {kind} alone: a pair is missing")
        return found[0]

    def _maker(self, name: str, kind: str, what: str) -> NodeProto:
        node = self.made.get(name)
        if node is None or node.op_type != kind:
            raise wrong(f"{what} is made by no {kind}: a pair is missing")
        return node

    def _array(self, name: str) -> Array | None:
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def _piece(self, x: str, y: str) -> ModelProto:
        nodes, needed, seen = [], [y], {x}
        while needed:
            name = needed.pop()
            node = self.made.get(name)
            if name in seen or node is None:
                continue
            seen |= set(node.output)
            nodes.append(node)
            needed += [given for given in node.input if given]
        order = {node.name: place for place, node in enumerate(self.model.graph.node)}
        graph = onnx.helper.make_graph(
            sorted(nodes, key=lambda node: order[node.name]), "piece",
            [onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, None)],
            [onnx.helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)],
            [self.constants[name] for name in {n for node in nodes for n in node.input} & self.constants.keys()],
        )  # fmt: skip
        model: ModelProto = onnx.helper.make_model(graph, opset_imports=self.model.opset_import)
        model.ir_version = self.model.ir_version
        return model


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)
