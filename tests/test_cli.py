"""The command line as a person meets it: exit codes, one sentence, a next step, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import said
from onnx import helper, numpy_helper
from PIL import Image

from edgevit.artifact.files import sha256_of
from edgevit.registry import newer_line

JSON_PROFILE_KEYS = {
    "artifact", "runtime", "provider", "threads", "scenario", "tier", "verdict", "unmonitored", "p50_ms", "p90_ms",
    "p99_ms", "throughput", "samples", "load_ms", "first_ms", "peak_rss_bytes", "key", "reasons",
    "precision", "accuracy", "quality",
}  # fmt: skip
BRIEF = Path(__file__).parent / "brief.py"
PARITY_KEYS = {"status", "reason", "max_abs", "max_rel", "cosine", "top1_agreement", "tolerance", "images"}


def edgevit(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command (its quick tier is a brief one); a traceback in its output is always a failure."""
    installed = [str(Path(sys.executable).parent / "edgevit")]
    command = [
        str(part) for part in (*([sys.executable, BRIEF] if "profile" in arguments[:1] else installed), *arguments)
    ]
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=300
    )
    assert "Traceback" not in ran.stderr + ran.stdout, ran.stderr
    return ran


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vit_nano on digits, exported by the command itself."""
    folder = tmp_path_factory.mktemp("cli") / "vit"
    ran = edgevit("export", "vit_nano", "--weights", "digits", "-t", "onnx", "-o", folder, "--threads", 1, "--json")
    assert ran.returncode == 0, ran.stderr
    (record,) = json.loads(ran.stdout)
    assert set(record) == {"artifact", "target", "precision", "bytes", "seconds", "parity"}
    assert set(record["parity"]) == PARITY_KEYS
    assert record["parity"]["status"] == "verified"
    return folder


@pytest.fixture
def artifact(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(exported, tmp_path / "artifact")


def rewrite(artifact: Path, model: onnx.ModelProto) -> None:
    """Replace the graph and its hash, as someone who knows the format would."""
    onnx.save(model, artifact / "model.onnx")
    manifest = json.loads((artifact / "edgevit.json").read_text())
    manifest["files"]["model.onnx"] = sha256_of(artifact / "model.onnx")
    (artifact / "edgevit.json").write_text(json.dumps(manifest))


def test_help_of_every_verb_shows_without_heavy_imports() -> None:
    shown = edgevit("--help").stdout
    for verb in ("models", "targets", "train", "export", "verify", "predict", "profile", "info", "quickstart"):
        assert verb in shown
        assert said(verb, "--help").returncode == 0


def test_no_verb_shows_the_help() -> None:
    ran = edgevit()
    assert "Usage" in ran.stdout + ran.stderr


def test_an_unknown_model_ends_with_2_and_the_nearest_name() -> None:
    ran = said("export", "fmvit_nan", "-t", "onnx")
    assert ran.returncode == 2
    assert "unknown model 'fmvit_nan'" in ran.stderr
    assert "fmvit_nano" in ran.stderr


def test_an_unknown_target_ends_with_2_and_the_nearest_name() -> None:
    ran = said("export", "fmvit_nano", "-t", "onx")
    assert ran.returncode == 2
    assert "did you mean onnx" in ran.stderr


def test_a_bare_option_with_no_value_ends_with_2() -> None:
    ran = said("export", "fmvit_nano", "-t", "onnx", "--option", "opset")
    assert ran.returncode == 2
    assert "is not KEY=VALUE" in ran.stderr


def test_a_file_model_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    ran = said("export", tmp_path / "missing.py:build", "-t", "onnx")
    assert ran.returncode == 2
    assert "missing.py" in ran.stderr


def test_an_existing_output_is_refused_with_2_and_kept(artifact: Path) -> None:
    before = sha256_of(artifact / "edgevit.json")
    ran = said("export", "vit_nano", "-t", "onnx", "-o", artifact)
    assert ran.returncode == 2
    assert "--force" in ran.stderr
    assert sha256_of(artifact / "edgevit.json") == before


def test_verify_passes_and_gives_the_accuracy_beside_the_recorded_one(artifact: Path) -> None:
    ran = edgevit("verify", artifact, "--data", "digits", "--threads", 1, "--json")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert set(result["parity"]) == PARITY_KEYS
    assert result["parity"]["status"] == "verified"
    assert result["accuracy"]["top1"] == result["accuracy"]["recorded"]


def test_a_corrupted_file_ends_with_6(artifact: Path) -> None:
    data = bytearray((artifact / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / "model.onnx").write_bytes(data)
    for verb in ("verify", "profile"):
        ran = said(verb, artifact)
        assert ran.returncode == 6
        assert "model.onnx" in ran.stderr
        assert "was altered" in ran.stderr


def test_a_missing_file_ends_with_6(artifact: Path) -> None:
    (artifact / "model.onnx").unlink()
    ran = said("verify", artifact)
    assert ran.returncode == 6
    assert "lacks model.onnx" in ran.stderr


def test_a_swapped_weight_ends_with_7(artifact: Path) -> None:
    model = onnx.load(artifact / "model.onnx")
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    weight.CopyFrom(numpy_helper.from_array(values[::-1].copy(), weight.name))
    rewrite(artifact, model)
    ran = said("verify", artifact)
    assert ran.returncode == 7
    assert "tolerance" in ran.stderr


def test_a_doubled_normalisation_ends_with_7_and_is_named(artifact: Path) -> None:
    model = onnx.load(artifact / "model.onnx")
    manifest = json.loads((artifact / "edgevit.json").read_text())
    shift, scale = (np.asarray(manifest["preprocess"][key], np.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "image":
                node.input[index] = "normalised_again"
    model.graph.initializer.extend([numpy_helper.from_array(shift, "m"), numpy_helper.from_array(scale, "s")])
    model.graph.node.insert(0, helper.make_node("Sub", ["image", "m"], ["centred"]))
    model.graph.node.insert(1, helper.make_node("Div", ["centred", "s"], ["normalised_again"]))
    rewrite(artifact, model)
    ran = said("verify", artifact)
    assert ran.returncode == 7
    assert "applied twice" in ran.stderr


def test_a_manifest_from_the_future_ends_with_6(artifact: Path) -> None:
    manifest = json.loads((artifact / "edgevit.json").read_text())
    (artifact / "edgevit.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    ran = said("info", artifact)
    assert ran.returncode == 6
    assert "schema 99" in ran.stderr
    assert newer_line() in ran.stderr


def test_a_folder_that_is_no_artifact_ends_with_6(tmp_path: Path) -> None:
    ran = said("verify", tmp_path)
    assert ran.returncode == 6
    assert "no edgevit.json in it" in ran.stderr


def test_an_absent_provider_is_never_replaced(artifact: Path) -> None:
    ran = said("predict", artifact, artifact / "golden/0.png", "--provider", "cuda")
    assert ran.returncode in (3, 4)
    assert "CUDA" in ran.stderr


def test_predict_goes_on_after_a_bad_image(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.jpg").write_text("not a picture")
    Image.new("CMYK", (20, 30), (0, 10, 20, 30)).save(tmp_path / "cmyk.jpg")
    images = [tmp_path / "empty.png", artifact / "golden/0.png", tmp_path / "words.jpg", tmp_path / "cmyk.jpg"]
    ran = edgevit("predict", artifact, *images, "--json", "--threads", 1)
    assert ran.returncode == 1
    records = json.loads(ran.stdout)
    assert ["error" in record for record in records] == [True, False, True, False]
    assert len(records[1]["top"]) == 5
    assert set(records[1]["top"][0]) == {"label", "index", "probability"}


def test_profile_gives_the_promised_record_and_keeps_the_samples(artifact: Path) -> None:
    ran = edgevit("profile", artifact, "--threads", 1, "--json")
    assert ran.returncode == 0, ran.stderr
    (record,) = json.loads(ran.stdout)
    assert set(record) == JSON_PROFILE_KEYS
    assert record["p50_ms"] > 0
    (kept,) = (artifact / "profiles").glob("*.json")
    assert len(json.loads(kept.read_text())["samples_ms"]) == record["samples"]


def test_profile_goes_on_after_a_bad_artifact(artifact: Path, tmp_path: Path) -> None:
    ran = edgevit("profile", tmp_path / "nothing", artifact, "--threads", 1, "--json")
    assert ran.returncode == 6
    assert len(json.loads(ran.stdout)) == 1


def test_info_is_words_or_the_manifest(artifact: Path) -> None:
    words = edgevit("info", artifact).stdout
    assert "vit_nano, deploy form" in words
    assert "verified" in words
    assert json.loads(said("info", artifact, "--json").stdout)["schema_version"] == 2


def test_targets_lists_exporters_and_runtimes() -> None:
    records = json.loads(edgevit("targets", "--json").stdout)
    assert {("onnx", "exporter"), ("onnxruntime", "runtime")} <= {
        (record["name"], record["kind"]) for record in records
    }
    assert {"name", "kind", "available", "version", "can_build", "can_run", "reason", "install"} <= set(records[0])


def test_models_lists_the_zoo_with_counts_of_both_forms() -> None:
    records = {record["name"]: record for record in json.loads(said("models", "--json").stdout)}
    assert {"name", "params", "macs", "params_train", "macs_train", "image_size", "source", "weights"} <= set(
        records["fmvit_s"]
    )
    assert records["fmvit_nano"]["weights"] == ["digits", "fashion"]
    for name in ("fmvit_t", "fmvit_l", "efficientformer_l7", "efficientformerv2_l", "vit_large", "vit_edvit"):
        assert records[name]["params"] <= records[name]["params_train"]


def test_a_user_s_own_model_goes_the_whole_way(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef tiny():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))\n"
    )
    sized = ("-t", "onnx", "--image-size", "32x48")
    ran = edgevit("export", "mine.py:tiny", *sized, "-o", "out", "--threads", 1, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "random ones" in ran.stderr
    assert "random weights" in ran.stdout
    assert "assumed of its pictures: ImageNet's mean" in ran.stderr
    manifest = json.loads((tmp_path / "out" / "edgevit.json").read_text())
    assert manifest["model"]["image_size"] == [32, 48]
    assert sum(manifest["reparam"]["folded"].values()) == 1
    assert manifest["reparam"]["left"] == {}
