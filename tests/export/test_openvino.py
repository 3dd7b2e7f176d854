"""The OpenVINO target: what its files hold, what they are refused for, and what OpenVINO itself would have done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import edgevit
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import parse_manifest
from edgevit.artifact.opened import Artifact
from edgevit.engines.intel import ov
from edgevit.errors import BadArtifact, EdgeVitError, ExportFailed, Unsupported
from edgevit.export.openvino.convert import convert
from edgevit.export.openvino.job import Job
from edgevit.info import describe
from edgevit.runtimes.base import Session
from edgevit.runtimes.openvino.device import OpenVinoRuntime


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = edgevit.create_model("fmvit_nano", weights="digits")
    return edgevit.export(model, "openvino", out=tmp_path_factory.mktemp("ir") / "fp32", batch="1-8", threads=1)


def opened(artifact: Artifact, **options: str) -> Session:
    return OpenVinoRuntime().open(artifact, threads=1, provider=None, options=options)


def test_an_fp32_artifact_computes_in_fp32_where_openvino_itself_would_take_bf16(exported: Artifact) -> None:
    with opened(exported) as session:
        assert session.precision == "fp32"
        assert session.details["inference_precision_hint"] == "fp32"
    core = ov.Core()
    by_itself = core.compile_model(str(exported.entry), "CPU").get_property("INFERENCE_PRECISION_HINT")
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert by_itself == (ov.Type.bf16 if has_bf16 else ov.Type.f32)
    assert any("INFERENCE_PRECISION_HINT" in note for note in exported.manifest.notes)


def test_the_file_says_its_labels_its_preprocessing_and_the_range_of_its_batch(exported: Artifact) -> None:
    with opened(exported) as session:
        assert session.words["labels"] == str([str(digit) for digit in range(10)]).replace("'", '"')
        assert exported.manifest.preprocess is not None
        assert session.words["preprocess"] == exported.manifest.preprocess.model_dump_json()
    (shape,) = (port.get_partial_shape() for port in ov.Core().read_model(str(exported.entry)).inputs)
    assert (shape[0].min_length, shape[0].max_length, [side.get_length() for side in list(shape)[1:]]) == (
        1, 8, [3, 32, 32],
    )  # fmt: skip


def test_the_same_model_gives_the_same_bytes(exported: Artifact, tmp_path: Path) -> None:
    model = edgevit.create_model("fmvit_nano", weights="digits")
    again = edgevit.export(model, "openvino", out=tmp_path / "again", batch="1-8", threads=1)
    files = ("model.xml", "model.bin")
    assert [again.manifest.files[name] for name in files] == [exported.manifest.files[name] for name in files]


class _Wide(nn.Module):
    """(B, 3, 8, 8) -> (B, 4): weights beyond float16, and weights that float16 holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.wide.weight.data[0, 0, 0, 0] = 1e5

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(image).mean((2, 3)) / 1e5)


def test_float16_weights_are_counted_in_the_file_and_what_it_would_cut_is_kept_and_named(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)
    built = edgevit.export(
        _Wide().eval(), "openvino", out=tmp_path / "x", precision="fp16", inputs={"image": rows}, threads=1
    )
    assert built.manifest.precision_report.layers == {"float16": 1, "float32": 1}
    assert built.manifest.precision_report.kept_fp32 == {"wide": "wide.weight reaches 1e+05, beyond fp16"}
    assert built.manifest.parity.status == "verified"
    with opened(built) as session:
        assert session.precision == "fp32"


def test_bf16_is_computed_in_bf16_and_what_it_costs_is_measured_with_its_own_answers(tmp_path: Path) -> None:
    model = edgevit.create_model("vit_nano", weights="digits")
    manifest = edgevit.export(model, "openvino", out=tmp_path / "x", precision="bf16", threads=1).manifest
    assert manifest.precision_report.layers == {"bfloat16": 26, "float32": 8}  # attention multiplies two activations
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert manifest.parity.reason is not None
        assert manifest.parity.reason.startswith("needs bf16 arithmetic")
        assert manifest.loss is None
        return
    assert manifest.parity.status == "verified"
    assert manifest.parity.max_rel is not None
    assert 1e-4 < manifest.parity.max_rel <= manifest.parity.tolerance < 0.1
    assert manifest.loss is not None
    assert (manifest.loss.metric, manifest.loss.images, manifest.loss.data) == ("top-1", 360, "digits")
    assert 1e-3 < manifest.loss.rms < 0.02
    artifact = Artifact.open(tmp_path / "x")
    with opened(artifact) as session:
        assert session.precision == "bf16"
    with opened(artifact, precision="fp32") as session:
        assert session.precision == "fp32"
    assert ("cost", manifest.loss.sentence()) in list(describe(artifact))


def test_an_fp32_artifact_has_no_loss(exported: Artifact) -> None:
    assert exported.manifest.cost() is None


def test_a_range_of_image_sizes_is_proved_at_its_ends_and_between(tmp_path: Path) -> None:
    model = edgevit.create_model("sesr_nano_x2")
    built = edgevit.export(model, "openvino", out=tmp_path / "x", image_size="16-48", threads=1)
    assert built.manifest.parity.status == "verified"
    assert {"16", "48"} <= set(built.manifest.parity.sizes)


class Sampled(nn.Module):
    """Reads its input at places between pixels, which are constants."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("places", torch.linspace(-1.1, 1.1, 2 * 5 * 6).reshape(1, 5, 6, 2).sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.places.expand(x.shape[0], -1, -1, -1)
        return nn.functional.grid_sample(x, places, mode=self.mode, align_corners=False)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_samples_between_pixels_are_in_words_that_openvino_reads(mode: str, tmp_path: Path) -> None:
    rows = {"x": np.random.default_rng(0).normal(size=(16, 2, 7, 9)).astype(np.float32)}
    built = edgevit.export(Sampled(mode).eval(), "openvino", out=tmp_path / "x", inputs=rows, threads=1)
    assert built.manifest.parity.status == "verified"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_onnx_file_becomes_ir_too(make_artifact: Callable[..., Path], tmp_path: Path, precision: str) -> None:
    source = make_artifact() / "model.onnx"
    built = edgevit.export(str(source), "openvino", out=tmp_path / "x", precision=precision, threads=1)
    has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    due = "verified" if has_bf16 or precision != "bf16" else "unverified"
    assert (built.manifest.entry, built.manifest.parity.status) == ("model.xml", due)
    assert (built.manifest.parity.noise or 0) > {"fp32": 0, "fp16": 1e-5, "bf16": 1e-4}[precision]


# --- what is refused -------------------------------------------------------------------------------------------------


def _altered(exported: Artifact, folder: Path, name: str, change: Callable[[bytes], bytes]) -> Artifact:
    """A copy whose file was changed, and whose manifest has its new hash."""
    for file in (*exported.manifest.files, "edgevit.json"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes((exported.path / file).read_bytes())
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    manifest = parse_manifest((folder / "edgevit.json").read_text(), folder)
    return Artifact(folder, manifest.model_copy(update={"files": hash_tree(folder)}))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.bin", lambda data: data[:1000], "Incorrect weights in bin file"),
        ("model.xml", lambda data: data[:5000], r"at offset \d+"),
        ("model.xml", lambda data: b"hello", "is no OpenVINO IR"),
        ("model.xml", lambda data: b"", "is no OpenVINO IR"),
        ("model.xml", lambda data: data.replace(b'version="11"', b'version="12"'), "is IR version 12; OpenVINO reads"),
        ("model.xml", lambda data: data.replace(b'"opset1"', b'"opset99"'), "opset99"),
    ],
    ids=["cut weights", "cut graph", "foreign", "empty", "another version", "a newer operator set"],
)
def test_a_file_that_is_not_what_openvino_reads_is_a_bad_artifact_in_one_sentence(
    exported: Artifact, tmp_path: Path, name: str, change: Callable[[bytes], bytes], said: str, capfd: Any
) -> None:
    with pytest.raises(BadArtifact, match=said) as caught:
        opened(_altered(exported, tmp_path, name, change))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # OpenVINO tries other libraries' formats aloud


def test_a_file_of_a_newer_openvino_says_which_one_wrote_it(exported: Artifact, tmp_path: Path) -> None:
    newer = _altered(exported, tmp_path, "model.xml", lambda data: data.replace(b'"opset1"', b'"opset99"'))
    versions = {**newer.manifest.versions, "openvino": "2099.1.0"}
    newer = Artifact(newer.path, newer.manifest.model_copy(update={"versions": versions}))
    with pytest.raises(BadArtifact) as caught:
        opened(newer)
    assert caught.value.hint == "export anew, or install openvino 2099.1.0, which wrote it"


def _converted(tmp_path: Path, operator: str) -> EdgeVitError:
    """What is raised for an ONNX file with that operator, of the module blocks.0."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [3, 3]), ("y", []))]
    node = helper.make_node(operator, ["x"], ["y"], name=f"blocks.0/{operator}")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "x.onnx")
    places = {"modules": {node.name: "blocks.0"}, "lines": {node.name: "net.py:7"}}
    job = Job(str(tmp_path / "x.onnx"), str(tmp_path / "x.xml"), {}, "float32", {node.name: operator}, **places)
    with pytest.raises(EdgeVitError) as caught:
        convert(job.payload())
    return caught.value


def test_an_operator_that_openvino_lacks_is_named_with_its_module_and_line(tmp_path: Path) -> None:
    error = _converted(tmp_path, "Det")
    assert isinstance(error, Unsupported)
    assert str(error) == "OpenVINO has no Det (node blocks.0/Det, module blocks.0, net.py:7)"


def test_an_operator_that_openvino_fails_on_is_named_with_its_module(tmp_path: Path) -> None:
    error = _converted(tmp_path, "AffineGrid")
    assert isinstance(error, ExportFailed)
    assert str(error) == (
        "OpenVINO could not read the ONNX graph: AffineGrid (node blocks.0/AffineGrid, module blocks.0, net.py:7): "
        "AffineGrid expected at least 2 inputs, got: 1"
    )
