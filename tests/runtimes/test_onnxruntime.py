from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevit.artifact.files import sha256_of
from edgevit.cpu import usable_cores
from edgevit.errors import BadArtifact, EdgeVitError, MissingDependency, UnknownName, Unsupported, UsageError
from edgevit.runtimes.base import open_session
from edgevit.runtimes.onnxruntime import layer_times, provider_name, session_options

IMAGE = np.zeros((1, 3, 8, 8), np.float32)


def test_a_session_gives_what_plain_onnxruntime_gives(make_artifact) -> None:
    folder = make_artifact()
    plain = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=IMAGE.shape).astype(np.float32)
    with open_session(folder) as session:
        assert session.provider == "CPUExecutionProvider"
        assert session.threads == usable_cores()
        assert (session.infer({"image": image})["logits"] == plain.run(None, {"image": image})[0]).all()


@pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider", None])
def test_the_cpu_has_several_names(name) -> None:
    assert provider_name(name) == "CPUExecutionProvider"


def test_a_provider_with_a_wheel_of_its_own_gets_the_pip_line() -> None:
    with pytest.raises(MissingDependency, match="CUDAExecutionProvider") as caught:
        provider_name("cuda")
    assert "onnxruntime-gpu" in caught.value.hint


def test_a_known_provider_without_a_wheel_is_unsupported_here() -> None:
    with pytest.raises(Unsupported, match="CoreMLExecutionProvider"):
        provider_name("coreml")


def test_an_unknown_provider_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="provider 'cdua'") as caught:
        provider_name("cdua")
    assert "cuda" in caught.value.hint


@pytest.mark.parametrize(
    ("feeds", "sentence"),
    [
        ({}, "takes image; got nothing"),
        ({"picture": IMAGE}, "takes image; got picture"),
        ({"image": IMAGE.astype(np.float64)}, "image must be float32, got float64"),
        ({"image": IMAGE[0]}, "image must be 1×3×8×8, got 3×8×8"),
        ({"image": IMAGE.repeat(2, axis=0)}, "image must be 1×3×8×8, got 2×3×8×8"),
    ],
)
def test_wrong_feeds_are_refused_in_words(make_artifact, feeds, sentence) -> None:
    with open_session(make_artifact()) as session, pytest.raises(UsageError, match=sentence):
        session.infer(feeds)


def test_a_dynamic_batch_is_held_to_its_range(make_artifact) -> None:
    with open_session(make_artifact(batch=(1, 4))) as session:
        assert session.infer({"image": IMAGE.repeat(4, axis=0)})["logits"].shape == (4, 4)
        with pytest.raises(UsageError, match="got 5×3×8×8"):
            session.infer({"image": IMAGE.repeat(5, axis=0)})


def test_an_unknown_runtime_or_thread_count_is_refused(make_artifact) -> None:
    folder = make_artifact()
    with pytest.raises(UnknownName, match="runtime 'onnxruntim'"):
        open_session(folder, "onnxruntim")
    with pytest.raises(UsageError, match="threads must be 1 or more"):
        open_session(folder, threads=0)


def test_session_options_are_checked() -> None:
    assert session_options(3, {}).intra_op_num_threads == 3
    with pytest.raises(UsageError, match="graph_optimization must be one of"):
        session_options(1, {"graph_optimization": "fast"})
    with pytest.raises(UnknownName, match="graph_optimisation"):
        session_options(1, {"graph_optimisation": "all"})


def rewritten(folder: Path, data: bytes) -> Path:
    """The artifact with another model file whose hash is right."""
    (folder / "model.onnx").write_bytes(data)
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    return folder


def test_a_file_that_is_no_graph_is_a_bad_artifact_in_one_quiet_sentence(make_artifact, capfd) -> None:
    folder = rewritten(make_artifact(), b"\x08\x07garbage" * 40)
    with pytest.raises(BadArtifact, match="cannot open") as caught:
        open_session(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_with_other_names_than_the_manifest_s_is_a_bad_artifact(make_artifact) -> None:
    folder = make_artifact()
    model = onnx.load(folder / "model.onnx")
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    with pytest.raises(BadArtifact, match=r"outputs of .* are scores; the manifest says logits"):
        open_session(rewritten(folder, model.SerializeToString()))


def test_a_graph_that_fails_while_running_is_one_quiet_sentence(make_artifact, capfd) -> None:
    folder = make_artifact(batch=(1, 4))
    model = onnx.load(folder / "model.onnx")
    shape = onnx.numpy_helper.from_array(np.array([1, 6], np.int64), "shape")
    model.graph.initializer.append(shape)  # a batch size frozen at 1
    (flatten,) = (node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    with open_session(rewritten(folder, model.SerializeToString())) as session:
        session.infer({"image": IMAGE})
        with pytest.raises(EdgeVitError, match="could not run") as caught:
            session.infer({"image": IMAGE.repeat(3, axis=0)})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_does_not_start_is_never_replaced_by_the_cpu(make_artifact, monkeypatch) -> None:
    """A GPU build on a machine without a GPU: ONNX Runtime lists the provider and then quietly runs on the CPU."""
    available = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr("edgevit.runtimes.onnxruntime.ort.get_available_providers", lambda: available)
    monkeypatch.setattr("edgevit.runtimes.onnxruntime._with_cpu", lambda wanted, alone: ["CPUExecutionProvider"])
    with pytest.raises(Unsupported, match="CUDAExecutionProvider did not start"):
        open_session(make_artifact(), provider="cuda")


def test_the_wrapper_s_own_fallback_is_off(make_artifact) -> None:
    with open_session(make_artifact()) as session:
        assert session._session._enable_fallback is False


def test_what_a_session_was_opened_with_is_recorded(make_artifact) -> None:
    with open_session(make_artifact(), threads=2, options={"graph_optimization": "basic"}) as session:
        assert session.threads == 2
        assert session.details["onnxruntime"] == onnxruntime.__version__
        assert session.details["graph_optimization"] == "basic"


@pytest.mark.parametrize("level", ["all", "extended", "basic", "none"])
def test_every_optimisation_level_computes_the_same(make_artifact, level: str) -> None:
    with open_session(make_artifact(), options={"graph_optimization": level}, threads=1) as session:
        inputs, outputs = session.artifact.golden()
        got = session.infer({"image": inputs["image"][:1]})["logits"]
    assert np.abs(got - outputs["logits"][:1]).max() < 1e-5


def test_every_layer_is_timed_with_its_provider(make_artifact) -> None:
    with open_session(make_artifact(), threads=1) as session:
        layers = session.layers([{"image": IMAGE}], runs=5)
    assert {"Conv", "GlobalAveragePool"} <= {layer.op for layer in layers}
    assert {layer.unit for layer in layers} == {"cpu"}
    assert all(layer.ms >= 0 for layer in layers)


def test_a_layer_is_the_median_of_the_counted_runs_and_knows_its_module() -> None:
    def event(name: str, dur: int, index: int, op: str) -> dict:
        args = {"op_name": op, "provider": "CUDAExecutionProvider", "node_index": str(index)}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": args}

    trace = [{"cat": "Session", "name": "model_run", "dur": 9}]
    for dur in (9000, 10, 20, 40):
        trace += [event("blocks.0.mlp.fc1/Gemm", dur, 0, "Gemm"), event("model/Add_nchwc", 2 * dur, 1, "Add")]
    trace.append(event("ReorderOutput", 7, 2, "ReorderOutput"))
    first, second, third = layer_times(trace, runs=3)
    assert (first.name, first.op, first.module, first.unit) == (
        "blocks.0.mlp.fc1/Gemm",
        "Gemm",
        "blocks.0.mlp.fc1",
        "cuda",
    )
    assert (first.ms, second.ms) == (0.02, 0.04)
    assert (second.module, third.module) == ("", None)


def test_require_is_true_or_false() -> None:
    with pytest.raises(UsageError, match="require must be true or false"):
        session_options(1, {"require": "maybe"})
