"""OpenVINO on real exports of the nano models, and on what it must refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgevit
from edgevit.artifact.files import hash_tree
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, UnknownName, Unsupported, UsageError
from edgevit.runtimes.base import Session
from edgevit.runtimes.openvino.device import OpenVinoRuntime, device_name
from edgevit.runtimes.rows import run_rows

EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp16": ("vit_nano", {"precision": "fp16"}),
    "dynamic": ("fmvit_nano", {"batch": "1-8"}),
    "uint8": ("efficientformer_nano", {"bake_preprocess": True}),
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("exports")
    return {
        name: edgevit.export(
            edgevit.create_model(model, weights="digits"), "onnx", out=root / name, threads=1, **options
        )
        for name, (model, options) in EXPORTS.items()
    }


def opened(artifact: Artifact | Path, provider: str | None = None, **options: str) -> Session:
    found = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    return OpenVinoRuntime().open(found, threads=1, provider=provider, options=options)


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_real_export_gives_its_golden_outputs(exports: dict[str, Artifact], kind: str) -> None:
    artifact = exports[kind]
    inputs, expected = artifact.golden()
    sizes = (1, 3, 8) if kind == "dynamic" else (1,)
    with opened(artifact) as session:
        for size in sizes:
            got = run_rows(session, inputs, size)["logits"]
            error = np.abs(got.astype(np.float64) - expected["logits"]).max() / np.abs(expected["logits"]).max()
            assert error <= artifact.manifest.parity.tolerance


def test_the_precision_threads_and_device_are_stated(make_artifact: Any) -> None:
    with opened(make_artifact()) as session:
        assert (session.runtime, session.provider, session.threads) == ("openvino", "CPU", 1)
        assert session.details["inference_precision_hint"] == "fp32"
        assert session.details["num_streams"] == "1"
        assert session.details["performance_hint"] == "latency"
        assert session.details["enable_cpu_pinning"] == "false"
        assert session.details["device"].startswith("CPU: ")


def test_more_threads_than_cores_are_stated_as_those_that_run(make_artifact: Any) -> None:
    artifact = Artifact.open(make_artifact())
    with OpenVinoRuntime().open(artifact, threads=4096, provider=None, options={}) as session:
        assert 1 <= session.threads < 4096
        assert session.details["inference_num_threads"] == str(session.threads)


def test_results_belong_to_the_caller(make_artifact: Any) -> None:
    images = np.random.default_rng(0).normal(size=(2, 1, 3, 8, 8)).astype(np.float32)
    with opened(make_artifact()) as session:
        first = session.infer({"image": images[0]})["logits"]
        kept = first.copy()
        assert (session.infer({"image": images[1]})["logits"] != kept).any()
        assert (first == kept).all()


def test_an_array_with_strides_is_run_as_what_it_shows(make_artifact: Any) -> None:
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    with opened(make_artifact()) as session:
        strided = session.infer({"image": image})["logits"]
        assert (strided == session.infer({"image": image.copy()})["logits"]).all()


def test_wrong_feeds_and_a_closed_session_are_refused(make_artifact: Any) -> None:
    session = opened(make_artifact())
    with pytest.raises(UsageError, match="image must be 1×3×8×8"):
        session.infer({"image": np.zeros((1, 3, 4, 4), np.float32)})
    session.close()
    with pytest.raises(EdgeVitError, match="was closed"):
        session.infer({"image": np.zeros((1, 3, 8, 8), np.float32)})


def test_a_precision_that_the_processor_has_not_is_refused_and_never_replaced(make_artifact: Any) -> None:
    import openvino

    folder = make_artifact()
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with opened(folder, precision="bf16") as session:
            assert session.precision == "bf16"
            assert session.details["inference_precision_hint"] == "bf16"
        return
    with pytest.raises(Unsupported, match=r"^needs bf16 .* offers fp32") as caught:
        opened(folder, precision="bf16")
    assert caught.value.hint == "use the openvino option precision=fp32"


def test_unknown_options_and_precisions_name_the_known_ones(make_artifact: Any) -> None:
    with pytest.raises(UnknownName, match="option of openvino 'precison'"):
        opened(make_artifact("a"), precison="fp32")
    with pytest.raises(UnknownName, match="precision of openvino 'fp8'"):
        opened(make_artifact("b"), precision="fp8")


def test_devices_go_by_their_short_names() -> None:
    assert device_name(None, ["CPU"]) == "CPU"
    assert device_name("gpu", ["CPU", "GPU.0", "GPU.1"]) == "GPU"
    assert device_name("GPU.1", ["CPU", "GPU.0", "GPU.1"]) == "GPU.1"


def test_a_device_that_is_not_there_is_refused_with_what_there_is() -> None:
    with pytest.raises(Unsupported, match="needs NPU and its driver; OpenVINO finds cpu here"):
        device_name("npu", ["CPU"])
    with pytest.raises(Unsupported, match=r"needs GPU\.1"):
        device_name("gpu.1", ["CPU", "GPU"])


@pytest.mark.parametrize("name", ["auto", "hetero:gpu,cpu", "tpu"])
def test_a_device_that_chooses_for_itself_is_unknown(name: str) -> None:
    with pytest.raises(UnknownName, match="provider of openvino"):
        device_name(name, ["CPU"])


def rewritten(folder: Path, model: onnx.ModelProto | bytes) -> Artifact:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    artifact = Artifact.open(folder)
    return Artifact(folder, artifact.manifest.model_copy(update={"files": hash_tree(folder)}))


def test_a_file_that_is_no_graph_is_a_bad_artifact_in_one_sentence(make_artifact: Any) -> None:
    with pytest.raises(BadArtifact, match="cannot open") as caught:
        opened(rewritten(make_artifact(), b"\x08\x07garbage" * 40))
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_a_graph_with_other_names_than_the_manifest_s_is_a_bad_artifact(make_artifact: Any) -> None:
    folder = make_artifact()
    model = onnx.load(folder / "model.onnx")
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    with pytest.raises(BadArtifact, match=r"outputs of .* are scores; the manifest says logits"):
        opened(rewritten(folder, model))


def test_an_error_of_the_engine_while_running_is_one_sentence(make_artifact: Any) -> None:
    with opened(make_artifact()) as session, pytest.raises(EdgeVitError, match="OpenVINO could not run") as caught:
        session._run({"image": np.zeros((1, 3, 4, 4), np.float32)})  # past the check of infer
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_layers_are_timed_and_belong_to_modules(exports: dict[str, Artifact]) -> None:
    artifact = exports["dynamic"]
    feed = {name: rows[:1] for name, rows in artifact.golden()[0].items()}
    with opened(artifact) as session:
        layers = session.layers([feed], 3)
    assert sum(layer.ms for layer in layers) > 0
    assert {layer.unit for layer in layers} == {"cpu"}
    modules = {layer.module for layer in layers if layer.op == "Convolution"}
    assert "stem.0" in modules
    assert not any(module and "_abcd_" in module for module in modules | {layer.module for layer in layers})


def test_nothing_is_sent_and_nothing_written(make_artifact: Any, tmp_path: Path) -> None:
    """In a fresh process with an empty home, where any connection is an error."""
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from pathlib import Path\n"
        "from edgevit.artifact.opened import Artifact\n"
        "from edgevit.runtimes.openvino.device import OpenVinoRuntime\n"
        "artifact = Artifact.open(sys.argv[1])\n"
        "with OpenVinoRuntime().open(artifact, threads=1, provider=None, options={}) as session:\n"
        "    session.infer({name: rows[:1] for name, rows in artifact.golden()[0].items()})\n"
        "sys.exit(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    home = tmp_path / "home"
    home.mkdir()
    folder = make_artifact()
    before = sorted(folder.rglob("*"))
    ran = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert not list(home.iterdir())
    assert sorted(folder.rglob("*")) == before
