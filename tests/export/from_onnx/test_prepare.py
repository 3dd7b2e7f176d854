from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_files import CONSTANTS, classifier, saved, two_inputs

import edgevit
from edgevit import build
from edgevit.artifact.opened import Artifact
from edgevit.benchmark.exports import deciding
from edgevit.benchmark.job import refusal
from edgevit.errors import MissingDependency, ParityFailed, Unsupported, UsageError
from edgevit.export.from_onnx.prepare import prepare
from edgevit.export.prepared import Prepared
from edgevit.export.targets import choose
from edgevit.prediction.predictor import predict
from edgevit.proof.verify import verify
from edgevit.request import ExportRequest, ModelChoice, parse_batch
from edgevit.runtimes.base import open_session


def request(model: ModelProto, folder: Path, **others) -> ExportRequest:
    path = saved(model, folder / "model.onnx")
    asked = {"data": "digits", "threads": 1, **others}
    return ExportRequest(ModelChoice(str(path)), ("onnx",), **asked)


def run(path: Path, rows: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, dict(rows))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    labels = tuple("abcde")
    asked = request(classifier(), tmp_path_factory.mktemp("file"), batch=parse_batch("1-3"), labels=labels)
    return prepare(asked)


def test_the_reference_is_what_the_file_answers(prepared: Prepared) -> None:
    (want,) = run(Path(str(prepared.request.model.source)), prepared.rows.inputs)
    np.testing.assert_allclose(prepared.reference.whole.outputs["output0"], want, rtol=1e-5)
    assert prepared.reference.computed == "float32"
    assert any("ONNX Runtime" in note and "float32" in note for note in prepared.notes)
    assert 1e-9 < prepared.noise("fp32", ()).outputs["output0"].error < 1e-5
    assert 1e-5 < prepared.noise("fp16", ()).outputs["output0"].error < 1e-2


def test_ends_keep_their_names_and_the_classifier_is_seen(prepared: Prepared) -> None:
    (taken,), (given,) = prepared.capture.inputs, prepared.capture.outputs
    assert (taken.name, taken.shape, taken.role) == ("images", ("batch", 3, 16, 16), "image")
    assert (given.name, given.shape, given.role) == ("output0", ("batch", 5), "logits")
    assert (prepared.info.classes, prepared.info.params) == (5, 4 * 27 + 4 + 20)
    assert prepared.info.macs == 8 * 8 * 4 * 27 + 20


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_onnx_file_becomes_a_proved_artifact_that_every_verb_takes(
    prepared: Prepared, precision: str, tmp_path: Path
) -> None:
    made = build.build_target(prepared, choose("onnx", precision, format="onnx"), tmp_path / precision)
    parity = made.manifest.parity
    assert (parity.status, parity.batches) == ("verified", (1, 3))
    assert made.manifest.precision_report.layers == {"float32" if precision == "fp32" else "float16": 2}
    assert verify(made.path, threads=1).parity.status == "verified"
    with pytest.raises(Unsupported, match="was exported from an ONNX file"):
        verify(made.path, threads=1, against="source")
    picture = tmp_path / "picture.png"
    from PIL import Image

    Image.new("RGB", (20, 20), (200, 10, 10)).save(picture)
    (guess,) = predict(made.path, [picture], threads=1)
    assert {one["label"] for one in guess.record()["top"]} == set("abcde")
    with open_session(made.path, threads=1) as session:
        rows = {"images": prepared.rows.inputs["images"][:2]}
        found = session.infer(rows)["output0"]
    want = prepared.reference.whole.outputs["output0"][:2]
    np.testing.assert_allclose(found, want, atol=parity.tolerance * np.abs(want).max())


def test_a_wrong_rewrite_is_caught(prepared: Prepared, tmp_path: Path) -> None:
    wrong = prepared.capture.model.clone()  # type: ignore[union-attr]
    for value in wrong.graph.initializers.values():
        if value.const_value is not None and tuple(value.shape or ()) == CONSTANTS["head"].shape:
            import onnx_ir as ir

            value.const_value = ir.tensor(CONSTANTS["head"] * np.float32(1.0001), name=value.name)
    mutated = replace(prepared, capture=replace(prepared.capture, model=wrong))  # type: ignore[type-var]
    with pytest.raises(ParityFailed, match="does not compute its model"):
        build.build_target(mutated, choose("onnx", format="onnx"), tmp_path / "bad")


def test_opsets_go_up_and_never_down(prepared: Prepared, tmp_path: Path) -> None:
    target = choose("onnx", options={"opset": 22}, format="onnx")
    made = build.build_target(prepared, target, tmp_path / "up")
    assert onnx.load(str(made.path / "model.onnx")).opset_import[0].version == 22
    with pytest.raises(Unsupported, match="is of opset 20, and cannot be written in the older 19"):
        build.build_target(prepared, choose("onnx", options={"opset": 19}, format="onnx"), tmp_path / "down")


def test_the_classes_of_the_data_are_the_labels_of_a_file_without_any(tmp_path: Path) -> None:
    from PIL import Image

    for number, name in enumerate(("ant", "bee", "cat", "dog", "eel")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for shade in range(8):
            picture = Image.new("RGB", (16, 16), (40 * number, 10 * shade, 99))
            picture.save(tmp_path / "data" / name / f"{shade}.png")
    found = prepare(request(classifier(), tmp_path, data=f"folder:{tmp_path / 'data'}"))
    assert found.labels == ("ant", "bee", "cat", "dog", "eel")
    assert found.accuracy is not None


def test_a_softmaxed_file_gives_logits_and_predicts_its_own_probabilities(tmp_path: Path) -> None:
    tail = [helper.make_node("Softmax", ["scores"], ["output0"], "soft", axis=-1)]
    asked = request(classifier(tail=tail, sides=(1, 3, 16, 16)), tmp_path, out=tmp_path / "out")
    made = build.artifact(asked)
    assert [spec.name for spec in made.manifest.outputs] == ["logits"]
    with open_session(made.path, threads=1) as session:
        inputs, _ = made.golden()
        row = {"images": inputs["images"][:1]}
        logits = session.infer(row)["logits"].astype(np.float64)
    shifted = np.exp(logits - logits.max())
    (want,) = run(Path(str(asked.model.source)), row)
    np.testing.assert_allclose(shifted / shifted.sum(), want, rtol=1e-4)


def test_a_sigmoid_at_the_end_makes_no_classifier(tmp_path: Path) -> None:
    tail = [helper.make_node("Sigmoid", ["scores"], ["output0"], "each")]
    found = prepare(request(classifier(tail=tail), tmp_path))
    assert found.info.task == "tensors"


def test_models_of_other_inputs_are_built_from_python(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    inputs = {"left": draw.standard_normal((16, 4)).astype(np.float32), "ids": draw.integers(0, 9, (16, 2))}
    path = saved(two_inputs(), tmp_path / "model.onnx")
    made = build.export(str(path), "onnx", out=tmp_path / "out", inputs=inputs, batch="1-4", threads=1)
    assert made.manifest.parity.status == "verified"
    assert [(spec.name, spec.dtype) for spec in made.manifest.outputs] == [("sum", "float32"), ("same", "int64")]


def test_channels_last_and_weights_in_another_file(tmp_path: Path) -> None:
    path = saved(classifier(sides=("N", 16, 16, 3)), tmp_path / "model.onnx", external="w.data")
    asked = ExportRequest(ModelChoice(str(path)), ("onnx",), data="digits", threads=1, out=tmp_path / "out")
    made = build.artifact(asked)
    assert made.manifest.parity.status == "verified"
    assert made.manifest.inputs[0].shape == (1, 16, 16, 3)


def random(model: ModelProto) -> None:
    noise = helper.make_node("RandomNormalLike", ["images"], ["noise"], "noise")
    node = next(node for node in model.graph.node if node.name == "same")
    node.op_type, node.name = "Add", "noisy"
    node.input.append("noise")
    model.graph.node.insert(0, noise)


def not_a_number(model: ModelProto) -> None:
    broken = np.array(CONSTANTS["head"])
    broken[0, 0] = np.nan
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(broken, "head"))


def mixed(model: ModelProto) -> None:
    """Rows minus the mean of their batch."""
    mean = helper.make_node("ReduceMean", ["planes"], ["mean"], "mean", axes=[0], keepdims=1)
    less = helper.make_node("Sub", ["planes", "mean"], ["rest"], "rest")
    conv = next(node for node in model.graph.node if node.name == "conv")
    conv.input[0] = "rest"
    model.graph.node.insert(1, less)
    model.graph.node.insert(1, mean)


def flat(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.name == "head")
    node.output[0] = "scores"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "all"))
    model.graph.node.append(helper.make_node("Reshape", ["scores", "all"], ["output0"], "flat_out"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["M"]))


@pytest.mark.parametrize(
    ("change", "batch", "error", "said"),
    [
        (random, "1", Unsupported, "draws random numbers"),
        (not_a_number, "1", ParityFailed, "NaN or infinity"),
        (mixed, "1-4", Unsupported, "depends on the other rows"),
        (flat, "2", Unsupported, "its first axis is not the batch"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_answers_that_nothing_can_be_proved_equal_to(
    change, batch: str, error: type, said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        prepare(request(classifier(change=change), tmp_path, batch=parse_batch(batch)))


def test_what_is_done_before_tracing_is_not_for_files(tmp_path: Path) -> None:
    asked = request(classifier(), tmp_path)
    for wrong, error in (
        (replace(asked, bake_preprocess=True), Unsupported),
        (replace(asked, form="train"), Unsupported),
        (replace(asked, model=replace(asked.model, weights="w.safetensors")), UsageError),
        (replace(asked, model=replace(asked.model, classes=3)), UsageError),
    ):
        with pytest.raises(error):
            prepare(wrong)
    with pytest.raises(UsageError, match="3 labels for 5 classes"):
        prepare(replace(asked, labels=("a", "b", "c")))


def test_what_needs_modules_says_that_a_file_has_none(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "model.onnx")
    with pytest.raises(Unsupported, match="is an ONNX file, a graph without PyTorch's modules"):
        edgevit.create_model(str(path))


@pytest.mark.parametrize("target", ["coreml", "tvm"])
def test_targets_that_take_no_file_say_so_before_anything_is_read(target: str, tmp_path: Path) -> None:
    asked = replace(request(classifier(), tmp_path), targets=(target,), out=tmp_path / "out")
    (outcome,) = build.exports(asked, lambda name: pytest.fail(f"{name} was begun"))
    assert isinstance(outcome.error, (Unsupported, MissingDependency))
    assert "takes no ONNX file" in str(outcome.error)


WITHOUT_TORCH = """
import sys
for name in ("torch", "timm", "torchvision", "safetensors"):
    sys.modules[name] = None
from edgevit.cli import main
sys.argv = ["edgevit", "export", *sys.argv[1:]]
main()
"""


def test_a_benchmark_sees_that_weights_beside_the_file_changed(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "model.onnx", external="w.data")
    asked = ExportRequest(ModelChoice(str(path)), ("onnx",))
    before = deciding(asked, "onnx")
    content = bytearray((tmp_path / "w.data").read_bytes())
    content[3] ^= 1
    (tmp_path / "w.data").write_bytes(content)
    assert deciding(asked, "onnx") != before
    assert isinstance(refusal("exporter", "coreml", "onnx"), Unsupported)
    assert refusal("exporter", "onnx", "onnx") is None


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = saved(classifier(metadata={"names": "['a', 'b', 'c', 'd', 'e']"}), tmp_path / "net.onnx")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path), "-t", "onnx", "--precision", "fp16", "--threads", "1"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    made = Artifact.open(tmp_path / "artifacts" / "net-onnx-fp16")
    assert made.manifest.parity.status == "verified"
    assert made.manifest.labels == ("a", "b", "c", "d", "e")
    assert made.manifest.versions["onnx"]
    assert "torch" not in made.manifest.versions
