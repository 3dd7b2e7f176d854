"""What an int8 engine is built from is held against its plan, by ONNX Runtime and in TensorRT's own network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from integer_models import captured, mixed, rows_of
from sabotaged_integers import (
    Sabotage,
    bias_of_another_layer,
    doubled_input_scale,
    doubled_weight_scale,
    dropped_input_pair,
    moved_axis,
    weights_of_another_layer,
    zero_point_off_by_one_at_both_ends,
)

from edgevit.artifact.manifest import BatchRange
from edgevit.engines.nvidia import FLAVORS
from edgevit.errors import ExportFailed
from edgevit.export.base import Capture, Context
from edgevit.export.onnx import OnnxExporter, OnnxOptions
from edgevit.export.tensorrt.expected import expected
from edgevit.export.tensorrt.exporter import TensorRtExporter
from edgevit.export.tensorrt.integers import Held, Integers, hold
from edgevit.export.tensorrt.layers import EngineLayer, NetworkLayer, in_floats
from edgevit.export.tensorrt.options import TensorRtOptions
from edgevit.quantize.plan import NVIDIA
from edgevit.quantize.planning import plan_int8

Found = tuple[Path, Integers]


def planned(batch: BatchRange) -> Capture:
    capture = captured(mixed(), batch)
    return dataclasses.replace(capture, plan=plan_int8(capture, rows_of(32, 1), "rows"))


def written(capture: Capture, folder: Path) -> Found:
    built = OnnxExporter(encoding=NVIDIA).write(
        capture, folder, precision="int8", options=OnnxOptions(), context=Context()
    )
    assert built.plan is not None
    return folder / "model.onnx", expected(capture, built.plan, folder)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return written(planned(BatchRange(min=1, max=4)), tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def trt() -> object:
    return FLAVORS["rtx"].load()


@pytest.fixture
def parsed(trt) -> Iterator:
    """The network that the parser makes of a file; the parser lives as long as the test."""
    kept = []

    def parse(path: Path):
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        kept.extend([logger, builder, parser])
        assert parser.parse_from_file(str(path))
        return network

    yield parse
    kept.clear()


def sabotaged(path: Path, sabotage: Sabotage, folder: Path) -> Path:
    model = onnx.load(path)
    sabotage(model)
    onnx.save(model, folder / "wrong.onnx")
    return folder / "wrong.onnx"


def test_a_right_graph_holds(trt, parsed, graph: Found) -> None:
    path, given = graph
    held = hold(trt, parsed(path), path, given)
    assert held.operators == len(json.loads(given.plan)["layers"]) + 3  # q, k and v of one weight, one used twice
    assert held.alone < 1e-5
    assert held.median < 1e-4


def test_a_batch_that_no_sixteen_rows_fill_holds_too(trt, parsed, tmp_path: Path) -> None:
    path, given = written(planned(BatchRange(min=3, max=3)), tmp_path)
    assert given.group == 3
    assert hold(trt, parsed(path), path, given).median < 1e-4


WRONG = [
    (doubled_weight_scale, "another scale than the plan"),
    (doubled_input_scale, "another scale than the plan"),
    (zero_point_off_by_one_at_both_ends, "another zero point than the plan"),
    (moved_axis, "axis"),
    (dropped_input_pair, "a pair is missing"),
    (weights_of_another_layer, "does not compute the plan"),
    (bias_of_another_layer, "does not compute the plan"),
]


@pytest.mark.parametrize(("sabotage", "said"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_no_engine_is_built_of_a_wrong_graph(
    sabotage: Sabotage, said: str, trt, parsed, graph: Found, tmp_path: Path
) -> None:
    path, given = graph
    with pytest.raises(ExportFailed, match=said):
        hold(trt, parsed(path), sabotaged(path, sabotage, tmp_path), given)


SEEN = [
    (doubled_weight_scale, "TensorRT's network the weight of .* another scale"),
    (doubled_input_scale, "TensorRT's network the input of .* another scale"),
    (moved_axis, "TensorRT's network the scales of .* of axis 0, not 1"),
    (dropped_input_pair, "TensorRT's network the input of .* made by no DEQUANTIZE"),
    (weights_of_another_layer, "TensorRT's network the weight of .* other integers"),
]


@pytest.mark.parametrize(("sabotage", "said"), SEEN, ids=lambda value: getattr(value, "__name__", ""))
def test_no_engine_is_built_of_a_network_that_is_not_of_its_graph(
    sabotage: Sabotage, said: str, trt, parsed, graph: Found, tmp_path: Path
) -> None:
    path, given = graph
    with pytest.raises(ExportFailed, match=said):
        hold(trt, parsed(sabotaged(path, sabotage, tmp_path)), path, given)


def test_a_graph_that_is_wrong_between_its_layers_is_found_as_a_whole(
    trt, parsed, graph: Found, tmp_path: Path
) -> None:
    path, given = graph

    def without_softmax(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Softmax")
        node.op_type = "Sigmoid"
        del node.attribute[:]

    with pytest.raises(ExportFailed, match="the median row of output differs by"):
        hold(trt, parsed(path), sabotaged(path, without_softmax, tmp_path), given)


def test_a_wrong_graph_ends_the_export_before_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(OnnxExporter):
        def write(self, capture: Capture, folder: Path, **given):
            built = super().write(capture, folder, **given)
            onnx.save(
                onnx.load(sabotaged(folder / "model.onnx", doubled_weight_scale, tmp_path)), folder / "model.onnx"
            )
            return built

    monkeypatch.setattr("edgevit.export.tensorrt.exporter.OnnxExporter", Wrong)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ExportFailed, match="another scale than the plan"):
        TensorRtExporter().write(
            planned(BatchRange(min=1, max=1)),
            out,
            precision="int8",
            options=TensorRtOptions(sm="89"),
            context=Context(),
        )
    assert not list(out.iterdir())


def test_layers_whose_kernels_read_no_integers_are_named() -> None:
    network = [NetworkLayer(name, "MATRIX_MULTIPLY", "int8", name, "") for name in ("a", "b")]
    engine = [
        EngineLayer("0", "gemm", ("float32", "int8"), ("float32",), ("a",), ()),
        EngineLayer("1", "gemm", ("float32",), ("float32",), ("b",), ()),
    ]
    assert in_floats(network, engine) == ["b"]


def test_what_was_held_is_said_in_one_sentence() -> None:
    said = Held(operators=7, alone=3e-7, median=2e-8).sentence()
    assert "7 operators of TensorRT's network" in said
    assert "alone to 3.0e-07, and the median row of all together to 2.0e-08" in said
