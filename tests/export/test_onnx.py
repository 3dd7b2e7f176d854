from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import ExportFailed, UnknownName, Unsupported, UsageError
from edgevit.export import onnx as target
from edgevit.export.base import Built, Context, parse_options
from edgevit.export.capture import capture
from edgevit.export.onnx import OnnxExporter, OnnxOptions

ONE, RANGE = BatchRange(min=1, max=1), BatchRange(min=1, max=4)


class Attention(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(rows, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, tokens, 16)
        return self.proj(y) * self.gain


class Vit(nn.Module):
    """Everything the exporter has to get right in 4,000 parameters: patches, attention, LayerNorm, GELU, mean."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16), nn.LayerNorm(16)
        self.attn, self.fc1, self.fc2 = Attention(gain), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = x + self.attn(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


def captured(batch: BatchRange = ONE, gain: float = 1.0, module: nn.Module | None = None):
    torch.manual_seed(0)
    images = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    return capture(module or Vit(gain), {"image": images}, batch, alone="logits", metadata={"model": "tiny"})


def build(folder: Path, found, precision: str = "fp32", **options):
    built = OnnxExporter().write(found, folder, precision=precision, options=OnnxOptions(**options), context=Context())
    return built, onnx.load(folder / "model.onnx")


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(folder: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


@dataclass(frozen=True)
class Made:
    """The tiny model, built."""

    folder: Path
    built: Built
    model: onnx.ModelProto


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, BatchRange], Made]:
    """The tiny model in a precision for a batch, built once: for tests that only look."""

    @functools.cache
    def make(precision: str, batch: BatchRange) -> Made:
        folder = tmp_path_factory.mktemp("made")
        return Made(folder, *build(folder, captured(batch), precision))

    return make


@pytest.mark.parametrize("batch", [ONE, RANGE], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bare_session_computes_what_the_module_computes(made, batch: BatchRange, precision: str) -> None:
    found, folder = captured(batch), made(precision, batch).folder
    images = found.calibration["image"]
    for rows in (1, 3, 4) if batch.dynamic else (1,):
        with torch.no_grad():
            expected = found.module(torch.from_numpy(images[:rows])).numpy()
        error = np.abs(run(folder, images[:rows]) - expected).max() / np.abs(expected).max()
        assert error < (1e-5 if precision == "fp32" else 1e-2)


def test_layer_norm_and_gelu_stay_whole_and_nothing_is_left_over(made) -> None:
    model = made("fp32", ONE).model
    found = operators(model)
    assert found.count("LayerNormalization") == 2
    assert found.count("Gelu") == 1
    assert not {"Identity", "Erf", "Constant", "Dropout"} & set(found)
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_linear_layers_are_gemms_with_no_reshape_between_them(made) -> None:
    model = made("fp32", ONE).model
    found = operators(model)
    assert found.count("Gemm") == 7
    assert found.count("MatMul") == 2
    between = found[found.index("Gelu") - 1 : found.index("Gelu") + 2]
    assert between == ["Gemm", "Gelu", "Gemm"]


def test_q_k_and_v_are_projected_apart(made) -> None:
    model = made("fp32", ONE).model
    assert [node.name for node in model.graph.node].count("attn.qkv/Gemm_2") == 1
    assert not {"Slice", "Squeeze", "Gather", "Split"} & set(operators(model))


def test_without_optimize_the_graph_is_torchs_own(tmp_path: Path) -> None:
    _, model = build(tmp_path, captured(), optimize=False)
    assert "Slice" in operators(model)
    assert operators(model).count("MatMul") >= 6


@pytest.mark.parametrize("opset", [18, 23])
def test_every_allowed_opset_is_written_and_computes_the_same(tmp_path: Path, opset: int) -> None:
    found = captured()
    built, model = build(tmp_path, found, opset=opset)
    assert model.opset_import[0].version == opset
    images = found.calibration["image"][:1]
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path, images), found.module(torch.from_numpy(images)).numpy(), atol=1e-4)
    assert any("Erf" in note for note in built.notes) == (opset < 20)


def test_ends_are_named_and_the_free_axis_is_called_batch(made) -> None:
    model = made("fp32", RANGE).model
    (image,), (logits,) = model.graph.input, model.graph.output
    assert image.name == "image"
    assert logits.name == "logits"
    assert image.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert logits.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_nodes_are_named_after_their_module_and_carry_its_path(made) -> None:
    model = made("fp32", ONE).model
    by_name = {node.name: node for node in model.graph.node}
    assert len(by_name) == len(model.graph.node)
    node = by_name["attn.qkv/Gemm"]
    assert {entry.key: entry.value for entry in node.metadata_props}["edgevit.module"] == "attn.qkv"
    assert all("/work" not in entry.value for node in model.graph.node for entry in node.metadata_props)


def test_the_file_carries_its_metadata(made) -> None:
    model = made("fp32", ONE).model
    assert {entry.key: entry.value for entry in model.metadata_props}["model"] == "tiny"
    assert model.producer_name == "edgevit"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_capture_gives_the_same_bytes(made, tmp_path: Path, precision: str) -> None:
    build(tmp_path, captured(), precision)
    assert (tmp_path / "model.onnx").read_bytes() == (made(precision, ONE).folder / "model.onnx").read_bytes()


def test_large_weights_go_to_a_second_file_that_a_session_finds(tmp_path: Path) -> None:
    found = captured()
    build(tmp_path, found, external_limit=1000)
    assert (tmp_path / "model.onnx.data").stat().st_size > 1000
    images = found.calibration["image"][:1]
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path, images), found.module(torch.from_numpy(images)).numpy(), atol=1e-4)


def test_fp16_is_in_the_graph_and_islands_are_float32(made) -> None:
    built, model = made("fp16", ONE).built, made("fp16", ONE).model
    types = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    for node in model.graph.node:
        island = node.op_type in ("LayerNormalization", "Softmax", "ReduceMean")
        for name in node.input:
            if types.get(name) in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and node.op_type != "Cast":
                wanted = onnx.TensorProto.FLOAT if island else onnx.TensorProto.FLOAT16
                assert types[name] == wanted, (node.name, name)
    assert built.precision.layers == {"float16": 10}
    assert {"norm1", "norm2", "attn (softmax)", "model (mean)"} <= set(built.precision.kept_fp32)


def test_a_module_beyond_fp16_is_kept_and_the_artifact_stays_right(tmp_path: Path) -> None:
    found = captured(gain=3e5)
    built, _ = build(tmp_path, found, "fp16")
    assert "activations reach" in built.precision.kept_fp32["attn"]
    assert "activations reach" in built.precision.kept_fp32["model"]
    assert built.precision.layers["float32"] >= 2
    images = found.calibration["image"][:1]
    with torch.no_grad():
        expected = found.module(torch.from_numpy(images)).numpy()
    assert np.abs(run(tmp_path, images) - expected).max() / np.abs(expected).max() < 2e-2


def test_casts_of_one_value_are_shared(made) -> None:
    model = made("fp16", ONE).model
    casts = [(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))


def test_fewer_fp16_layers_than_planned_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "to_half", lambda model, keep: None)
    with pytest.raises(ExportFailed, match="precision truth"):
        build(tmp_path, captured(), "fp16")


def test_an_unknown_option_or_opset_is_refused() -> None:
    with pytest.raises(UnknownName, match="option of onnx"):
        parse_options(OnnxExporter(), {"opzet": "20"})
    with pytest.raises(UsageError, match=r"onnx\.opset"):
        parse_options(OnnxExporter(), {"opset": "12"})
    assert parse_options(OnnxExporter(), {"opset": "21"}) == OnnxOptions(opset=21)


class FromMap(nn.Module):
    """What ``make`` makes of a small map."""

    def __init__(self, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.make = nn.Conv2d(3, 4, 4, stride=4), make

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.make(self.first(image))


def test_a_branch_that_hands_on_what_was_there_before_is_a_branch(tmp_path: Path) -> None:
    made = captured(module=FromMap(lambda t: torch.cond(t.mean() > 0, lambda v: v.relu(), lambda v: v.clone(), (t,))))
    OnnxExporter().write(made, tmp_path, precision="fp32", options=OnnxOptions(), context=Context())
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for gain in (1.0, -1.0):
        image = made.calibration["image"][:1] * gain
        (got,) = session.run(None, {"image": image})
        with torch.no_grad():
            assert np.allclose(got, made.module(torch.from_numpy(image)).numpy(), atol=1e-6)


@pytest.mark.parametrize("lines", [False, True])
def test_nodes_say_their_line_to_who_asks_and_an_artifact_keeps_none(lines: bool, tmp_path: Path) -> None:
    exporter = OnnxExporter(lines=lines)
    exporter.write(captured(), tmp_path, precision="fp32", options=OnnxOptions(), context=Context())
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    said = {entry.value for node in nodes for entry in node.metadata_props if entry.key == "edgevit.line"}
    assert any(line.startswith("test_onnx.py:") for line in said) == bool(said) == lines


def test_an_operator_that_onnx_lacks_is_named_with_its_module_and_line(tmp_path: Path) -> None:
    def make(t: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(t[:, 0])

    line = FromMap.forward.__code__.co_firstlineno + 1
    with pytest.raises(
        Unsupported, match=rf"^ONNX has no _linalg_svd\.default \(in the model, test_onnx\.py:{line}\)$"
    ):
        OnnxExporter().write(
            captured(module=FromMap(make)), tmp_path, precision="fp32", options=OnnxOptions(), context=Context()
        )
