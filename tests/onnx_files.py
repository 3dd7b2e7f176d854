"""Small ONNX files, written node by node: what users bring, and what they bring by mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.3)


CONSTANTS = {"kernel": weights(4, 3, 3, 3), "bias": weights(4, seed=1), "head": weights(4, 5, seed=2)}


def classifier(
    *,
    sides: Sequence[int | str] = ("N", 3, 16, 16),
    name: str = "images",
    tail: Sequence[onnx.NodeProto] = (),
    elem: int = FLOAT,
    opset: int = 17,
    ir_version: int = 8,
    metadata: Mapping[str, str] | None = None,
    change: Callable[[ModelProto], None] | None = None,
) -> ModelProto:
    """Convolution, mean, linear layer: 5 scores of an image, in a file as another exporter writes it.

    ``tail`` is behind the scores, from "scores" to "output0". ``change`` edits the whole.
    """
    last = "scores" if tail else "output0"
    nodes = [
        *_first(name, elem, sides),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["conv"], "conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "head"], [last], "head"),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, elem, sides)],
        [helper.make_tensor_value_info("output0", FLOAT, [sides[0], 5])],
        [numpy_helper.from_array(array, key) for key, array in CONSTANTS.items()],
    )
    return _model(graph, opset, ir_version, metadata, change)


def _first(name: str, elem: int, sides: Sequence[Any]) -> list[onnx.NodeProto]:
    """From the input to "planes", float with the channels first."""
    nodes, value = [], name
    if elem != FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["float"], "cast", to=FLOAT))
        value = "float"
    if sides[-1] == 3:
        nodes.append(helper.make_node("Transpose", [value], ["planes"], "turn", perm=[0, 3, 1, 2]))
    else:
        nodes.append(helper.make_node("Identity", [value], ["planes"], "same"))
    return nodes


def _model(
    graph: onnx.GraphProto,
    opset: int,
    ir_version: int,
    metadata: Mapping[str, str] | None,
    change: Callable[[ModelProto], None] | None,
) -> ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    helper.set_model_props(model, dict(metadata or {}))
    if change:
        change(model)
    return model


def two_inputs() -> ModelProto:
    """left (N, 4) float and ids (N, 2) int64 -> their sum and the ids again."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["float"], "cast", to=FLOAT),
        helper.make_node("ReduceSum", ["float", "axis"], ["total"], "total", keepdims=1),
        helper.make_node("Add", ["left", "total"], ["sum"], "sum"),
        helper.make_node("Identity", ["ids"], ["same"], "same"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("left", FLOAT, ["N", 4]),
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("sum", FLOAT, ["N", 4]),
            helper.make_tensor_value_info("same", TensorProto.INT64, ["N", 2]),
        ],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    return _model(graph, 17, 8, None, None)


def saved(model: ModelProto, path: Path, *, external: str | None = None) -> Path:
    """The file; with ``external`` its weights lie in a file of that name beside it."""
    if external:
        onnx.save(model, str(path), save_as_external_data=True, location=external, size_threshold=0)
    else:
        onnx.save(model, str(path))
    return path
