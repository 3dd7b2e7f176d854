"""What an int8 engine is built from, held against its plan: where it is built it cannot run.

First the ONNX file, by ONNX Runtime, which computes it as it is written: its pairs, each operator alone, and the whole.
Then the network that TensorRT's parser made of it, which is all that the builder sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from edgevit.errors import BadArtifact, ExportFailed, ParityFailed
from edgevit.export.tensorrt.layers import COMPUTE, node_of
from edgevit.quantize.alone import held_alone, read_layers
from edgevit.quantize.operators import Operator, wrong
from edgevit.quantize.pairs import Pairs
from edgevit.quantize.plan import Array, QuantPlan

_QUIET = 4  # fatal only: errors are raised as well
_MOVES = ("SHUFFLE", "IDENTITY")  # layers that the parser puts between a weight and what multiplies by it


@dataclass(frozen=True)
class Integers:
    """What the worker is given of a plan.

    plan    its text
    layers  file of what each of its operators is given, and makes of it
    rows    file of inputs ("i:NAME"), of what the plan makes of them ("o:NAME"), and of how far the median row of an
            output may lie from that ("b:NAME", a share of its largest value)
    group   rows of a call
    """

    plan: str
    layers: str
    rows: str
    group: int


@dataclass(frozen=True)
class Held:
    """How near what was held against a plan came: shares of the largest value."""

    operators: int
    alone: float
    median: float

    def sentence(self) -> str:
        return (
            f"the graph that it was built from has the scales, zero points, axes and integers of its plan in "
            f"{self.operators} operators of TensorRT's network; in ONNX Runtime each computes its plan alone to "
            f"{self.alone:.1e}, and the median row of all together to {self.median:.1e}"
        )


def hold(trt: Any, network: Any, graph: Path, given: Integers) -> Held:
    """ExportFailed for anything that is not as the plan has it."""
    plan = QuantPlan.model_validate_json(given.plan)
    try:
        pairs = Pairs(graph)
        operators = pairs.operators(plan)
        tally = held_alone(
            operators, plan, read_layers(Path(given.layers)), lambda places, values: _made(pairs.pieces(places), values)
        )
        _hold_network(_Parsed(trt, network), operators, plan, pairs.weights(operators))
    except (BadArtifact, ParityFailed) as exc:
        raise ExportFailed(str(exc), hint="please report this model") from exc
    with np.load(given.rows, allow_pickle=False) as rows:
        return Held(len(operators), tally.worst, _hold_whole(graph, dict(rows), given.group))


# --- the ONNX file ---------------------------------------------------------------------------------------------------


def _session(model: str | bytes) -> Any:
    """Every operator as it is written: what is fused would be computed in the integers of this processor."""
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _made(pieces: Iterable[ModelProto], values: Iterable[Array]) -> Iterator[Array]:
    for piece, value in zip(pieces, values, strict=True):
        session = _session(piece.SerializeToString())
        yield session.run(None, {piece.graph.input[0].name: value})[0]


def _hold_whole(graph: Path, rows: Mapping[str, Array], group: int) -> float:
    """How far the median row of the worst output lies from the plan."""
    session = _session(str(graph))
    inputs = {name.removeprefix("i:"): values for name, values in rows.items() if name.startswith("i:")}
    count, worst = len(next(iter(inputs.values()))), 0.0
    calls = [
        session.run(None, {name: values[start : start + group] for name, values in inputs.items()})
        for start in range(0, count, group)
    ]
    for place, output in enumerate(session.get_outputs()):
        if f"o:{output.name}" in rows:
            got, want = np.concatenate([call[place] for call in calls]), rows[f"o:{output.name}"]
            error, bound = median_apart(got, want), float(rows[f"b:{output.name}"])
            if not error <= bound:
                raise ExportFailed(
                    f"the graph does not compute its plan: the median row of {output.name} differs by {error:.1e}, "
                    f"{bound:.1e} are allowed",
                    hint="please report this model",
                )
            worst = max(worst, error)
    return worst


def median_apart(got: Array, want: Array) -> float:
    """The largest difference in the median row, as a share of the largest value of ``want``; inf of other shapes."""
    if got.shape != want.shape:
        return float("inf")
    apart = np.abs(got.astype(np.float64) - want).reshape(len(want), -1).max(axis=1)
    return float(np.median(apart)) / (float(np.abs(want).max(initial=0.0)) or 1.0)


# --- TensorRT's network ----------------------------------------------------------------------------------------------


class _Parsed:
    """A parsed network: which layer makes a tensor, and which multiplies for an ONNX node."""

    def __init__(self, trt: Any, network: Any) -> None:
        kinds = {
            "CONSTANT": trt.IConstantLayer, "QUANTIZE": trt.IQuantizeLayer, "DEQUANTIZE": trt.IDequantizeLayer,
            "MATRIX_MULTIPLY": trt.IMatrixMultiplyLayer,
        }  # fmt: skip
        self.transposed = trt.MatrixOperation.TRANSPOSE
        self.made: dict[str, Any] = {}
        self.products: dict[str, Any] = {}
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            kind = layer.type.name
            layer.__class__ = kinds.get(kind, layer.__class__)  # the bindings' own way to what a kind of layer has
            self.made.update({layer.get_output(place).name: layer for place in range(layer.num_outputs)})
            if kind in COMPUTE:
                self.products[node_of(layer.metadata)] = layer

    def maker(self, layer: Any, place: int, kind: str, what: str, through: Sequence[str] = ()) -> Any:
        """The layer of that kind which makes an input of another."""
        tensor = layer.get_input(place)
        found = None if tensor is None else self.made.get(tensor.name)
        while found is not None and found.type.name in through:
            found = self.made.get(found.get_input(0).name)
        if found is None or found.type.name != kind:
            raise wrong(f"in TensorRT's network {what} is made by no {kind} layer")
        return found

    def array(self, layer: Any, place: int, what: str) -> Array:
        """The constant that is an input of a layer."""
        weights = self.maker(layer, place, "CONSTANT", what).weights
        return np.asarray(weights if isinstance(weights, np.ndarray) else weights.numpy())

    def require_grid(self, layer: Any, scale: Array, what: str) -> None:
        """Its scales, and zero points of nothing but zeros."""
        if not np.array_equal(self.array(layer, 1, f"the scale of {what}").ravel(), scale.ravel()):
            raise wrong(f"in TensorRT's network {what} has another scale than the plan")
        if layer.get_input(2) is not None and self.array(layer, 2, f"the zero point of {what}").any():
            raise wrong(f"in TensorRT's network {what} has another zero point than the plan")


def _hold_network(
    parsed: _Parsed, operators: Sequence[Operator], plan: QuantPlan, weights: Mapping[str, Array]
) -> None:
    for one in operators:
        product, layer = parsed.products.get(one.node), plan.layers[one.mark.name]
        if product is None:
            raise wrong(f"TensorRT's network has no product of {one.node}")
        what = f"the input of {one.node}"
        second = parsed.maker(product, 0, "DEQUANTIZE", what)
        for pair in (second, parsed.maker(second, 0, "QUANTIZE", what)):
            parsed.require_grid(pair, np.array(layer.input.grid().scale, np.float32), what)
        scales = np.array(layer.scales, np.float32)[one.mark.start : one.mark.stop]
        _hold_weight(parsed, product, scales, weights[one.node], f"the weight of {one.node}")


def _hold_weight(parsed: _Parsed, product: Any, scales: Array, stored: Array, what: str) -> None:
    pair = parsed.maker(product, 1, "DEQUANTIZE", what, _MOVES)
    parsed.require_grid(pair, scales, what)
    channels = 1 if product.type.name == "MATRIX_MULTIPLY" and product.op1 != parsed.transposed else 0
    found = parsed.array(pair, 0, what)
    if found.dtype != stored.dtype or not np.array_equal(found.ravel(), stored.ravel()):
        raise wrong(f"in TensorRT's network {what} is of other integers")
    if pair.axis != channels:
        raise wrong(f"in TensorRT's network the scales of {what} are of axis {pair.axis}, not {channels}")
