"""Pairs in an ONNX graph: ONNX Runtime computes what the plan says, in integer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from integer_models import captured, mixed, rows_of

from edgevit.artifact.manifest import Array, BatchRange
from edgevit.errors import BadArtifact, Unsupported, UsageError
from edgevit.export.base import Capture
from edgevit.export.onnx import OnnxOptions
from edgevit.export.onnx.edit import constant_of, initializer
from edgevit.export.onnx.graph import name_nodes, tidy
from edgevit.export.onnx.integers import NOT_IN_GRAPH, Emitted, to_integers
from edgevit.export.onnx.traced import build_graph
from edgevit.quantize.narrow import encoded
from edgevit.quantize.pairs import Pairs
from edgevit.quantize.plan import ARM, AVX2, NVIDIA, STORED, X86, Encoding, QuantPlan
from edgevit.quantize.planning import plan_int8
from edgevit.quantize.simulate import Simulation
from edgevit.quantize.sites import Sites, sites_of

RANGE = BatchRange(min=1, max=4)
FOUR = STORED.model_copy(update={"weights": 4})


def emitted(
    capture: Capture, path: Path, optimize: bool = True, encoding: Encoding = X86
) -> tuple[Sites, QuantPlan, list[Emitted]]:
    sites = sites_of(capture.program, alone=encoding.weights_alone)
    plan = encoded(plan_int8(capture, rows_of(32, 1), "rows", sites=sites), sites.weights, encoding)
    model = build_graph(capture, 21 if encoding.weights_alone else 20, optimize=optimize)
    plan, found = to_integers(model, plan, sites)
    tidy(model)
    name_nodes(model)
    ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return sites, plan, found


def run(path: Path, rows: Array, optimised: Path | None = None) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if optimised:
        options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": row[None]})[0] for row in rows])


def simulated(sites: Sites, plan: QuantPlan, rows: Array) -> Array:
    with torch.no_grad():
        return np.concatenate([Simulation(sites, plan)(torch.from_numpy(row[None])).numpy() for row in rows])


@pytest.mark.parametrize("optimize", [True, False], ids=["rewritten", "as traced"])
@pytest.mark.parametrize("batch", [BatchRange(min=1, max=1), RANGE], ids=["fixed", "dynamic"])
def test_onnx_runtime_computes_what_the_plan_says(batch: BatchRange, optimize: bool, tmp_path: Path) -> None:
    sites, plan, found = emitted(captured(mixed(), batch), tmp_path / "model.onnx", optimize)
    assert {one.name for one in found} == set(plan.layers)
    assert NOT_IN_GRAPH not in plan.kept.values()
    rows = rows_of(16)["image"]
    got, want = run(tmp_path / "model.onnx", rows), simulated(sites, plan, rows)
    errors = np.abs(got - want).max(axis=1) / np.abs(want).max()
    assert np.median(errors) < 1e-5
    assert errors.max() < 2e-2


@pytest.mark.parametrize("encoding", [ARM, NVIDIA, AVX2], ids=["arm", "nvidia", "avx2"])
def test_the_graph_of_another_engine_computes_what_its_grids_say(encoding: Encoding, tmp_path: Path) -> None:
    sites, plan, found = emitted(captured(mixed()), tmp_path / "model.onnx", encoding=encoding)
    assert {one.name for one in found} == set(plan.layers)
    rows = rows_of(16)["image"]
    got, want = run(tmp_path / "model.onnx", rows), simulated(sites, plan, rows)
    assert np.median(np.abs(got - want).max(axis=1)) / np.abs(want).max() < 1e-5
    assert len(Pairs(tmp_path / "model.onnx").operators(plan)) == len(found)
    with pytest.raises(BadArtifact, match=r"another (scale|zero point)"):
        Pairs(tmp_path / "model.onnx").operators(plan.encoded(X86))


@pytest.mark.parametrize("optimize", [True, False], ids=["rewritten", "as traced"])
@pytest.mark.parametrize("encoding", [STORED, FOUR], ids=["w8", "w4"])
def test_weights_alone_are_integers_and_any_session_computes_in_floats(
    encoding: Encoding, optimize: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    sites, plan, found = emitted(captured(mixed(), RANGE), path, optimize, encoding)
    assert {one.name for one in found} == set(plan.layers)
    assert "first.weight" in plan.layers
    rows = rows_of(16)["image"]
    got, want = run(path, rows, tmp_path / "run.onnx"), simulated(sites, plan, rows)
    assert np.abs(got - want).max() < 1e-6 * np.abs(want).max()
    kernels = {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}
    assert not kernels & {"MatMulNBits", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeLinear", "Cast", "Mul"}
    assert len(Pairs(path).operators(plan)) == len(found)


def test_weights_of_four_bits_have_half_a_byte_each_unless_their_inputs_are_few(tmp_path: Path) -> None:
    emitted(captured(mixed()), tmp_path / "model.onnx", encoding=FOUR)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    few = {"first.weight_int8", "deep.weight_int8", "head.weight_int8"}
    assert {name for name in types if name.endswith("_int8")} == few
    assert {kind for name, kind in types.items() if name.endswith("_int4")} == {onnx.TensorProto.INT4}


def test_four_bits_are_not_had_of_an_opset_before_them() -> None:
    with pytest.raises(Unsupported, match="opset 20 has no integers of 4 bits"):
        OnnxOptions(opset=20).require("w4")
    assert OnnxOptions().opset_of("w4") == 21
    assert OnnxOptions().opset_of("w8") == 20


def test_no_two_products_overflow_16_bits_where_a_processor_adds_them_up_in_so_many(tmp_path: Path) -> None:
    emitted(captured(mixed()), tmp_path / "model.onnx", encoding=AVX2)
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name.endswith("_int8")]
    assert {int(np.abs(one.astype(int)).max()) for one in weights} == {63}
    assert 2 * 255 * 63 < 2**15 <= 2 * 255 * 127


def test_tensorrt_is_given_no_zero_points_no_integer_biases_and_no_grids_of_results(tmp_path: Path) -> None:
    emitted(captured(mixed()), tmp_path / "model.onnx", encoding=NVIDIA)
    graph = onnx.load(tmp_path / "model.onnx").graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    scaled = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(constants[node.input[2]].dtype == np.int8 and not constants[node.input[2]].any() for node in scaled)
    readers = {name: node.op_type for node in graph.node for name in node.input}
    ends = {readers[node.output[0]] for node in scaled if node.op_type == "DequantizeLinear"}
    assert ends <= {"Conv", "Gemm", "MatMul"}


def test_every_layer_runs_in_an_integer_kernel(tmp_path: Path) -> None:
    _, _, found = emitted(captured(mixed()), tmp_path / "model.onnx")
    run(tmp_path / "model.onnx", rows_of(1)["image"], tmp_path / "run.onnx")
    kernels = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert kernels["QLinearConv"] == 2
    assert kernels["QGemm"] + kernels["MatMulIntegerToFloat"] == len(found) - 2


def test_separated_projections_have_their_own_channels_of_the_plan(tmp_path: Path) -> None:
    _, _, found = emitted(captured(mixed()), tmp_path / "model.onnx")
    parts = sorted((one.start, one.stop) for one in found if one.name == "qkv.weight")
    assert parts == [(0, 12), (12, 24), (24, 36)]
    assert len({one.x.name for one in found if one.name == "qkv.weight"}) == 1


def test_a_layer_that_the_graph_computes_otherwise_in_one_place_stays_float_everywhere(tmp_path: Path) -> None:
    capture = captured(mixed())
    sites = sites_of(capture.program)
    plan = plan_int8(capture, rows_of(32, 1), "rows", sites=sites)
    model = build_graph(capture, 20, optimize=False)
    whole = sites.weights["shared.weight"].values
    shared = [
        node
        for node in model.graph
        if node.op_type in ("MatMul", "Gemm")
        and (array := constant_of(node.inputs[1])) is not None
        and whole.shape == array.shape
        and (np.array_equal(array, whole) or np.array_equal(array.T, whole))
    ]
    assert len(shared) == 2
    constant = constant_of(shared[0].inputs[1])
    assert constant is not None
    shared[0].replace_input_with(1, initializer(model.graph, "other", constant * 2))
    left, found = to_integers(model, plan, sites)
    assert left.kept["shared.weight"] == NOT_IN_GRAPH
    assert "shared.weight" not in {one.name for one in found}


def test_a_bias_of_zeros_that_the_converter_leaves_out_keeps_no_layer_float(tmp_path: Path) -> None:
    module = mixed()
    with torch.no_grad():
        for name in ("qkv", "head", "deep"):
            module.get_submodule(name).bias.zero_()  # type: ignore[union-attr, operator]
    sites, plan, found = emitted(captured(module), tmp_path / "model.onnx")
    assert {one.name for one in found} == set(plan.layers)
    assert NOT_IN_GRAPH not in plan.kept.values()
    rows = rows_of(16)["image"]
    got, want = run(tmp_path / "model.onnx", rows), simulated(sites, plan, rows)
    assert np.median(np.abs(got - want).max(axis=1)) < 1e-5 * np.abs(want).max()


def test_weights_are_stored_in_one_byte_each(tmp_path: Path) -> None:
    emitted(captured(mixed()), tmp_path / "model.onnx")
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    stored = [kind for name, kind in types.items() if name.endswith("_int8")]
    assert len(stored) >= 6
    assert set(stored) == {onnx.TensorProto.INT8}


def test_how_integers_are_stored_is_not_asked_of_floats() -> None:
    with pytest.raises(UsageError, match=r"onnx\.encoding is of integers"):
        OnnxOptions(encoding="arm").require("fp32")
    OnnxOptions(encoding="arm").require("int8")
    OnnxOptions().require("fp32")
