from __future__ import annotations

import json

import numpy as np
import pytest

import edgevit
from edgevit.artifact import Artifact, Parity
from edgevit.errors import BadArtifact, Unsupported


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = edgevit.create_model("vit_nano")
    return edgevit.export(model, "onnx", out=tmp_path_factory.mktemp("torch") / "vit", data="digits", threads=1)


def test_the_source_model_is_rebuilt_and_agrees_with_the_artifact(artifact: Artifact) -> None:
    inputs, outputs = artifact.golden()
    with edgevit.open_session(artifact.path, "torch", threads=1) as session:
        got = session.infer({"image": inputs["image"][:1]})["logits"]
    assert np.abs(got - outputs["logits"][:1]).max() < 1e-4


def test_verify_against_the_source_needs_no_second_artifact(artifact: Artifact) -> None:
    assert edgevit.verify(artifact.path, against="source", threads=1).against.status == "verified"


def test_other_weights_than_the_exported_ones_are_noticed(artifact: Artifact, tmp_path) -> None:
    import shutil

    copy = shutil.copytree(artifact.path, tmp_path / "copy")
    manifest = json.loads((copy / "edgevit.json").read_text())
    manifest["model"]["weights"]["state_sha256"] = "0" * 64
    (copy / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="are not those of the export"):
        edgevit.open_session(copy, "torch")


def test_another_device_is_not_silently_replaced(artifact: Artifact) -> None:
    with pytest.raises(Unsupported, match="not on cuda"):
        edgevit.open_session(artifact.path, "torch", provider="cuda")


def test_a_baked_artifact_is_fed_pixels_by_either_runtime(tmp_path) -> None:
    model = edgevit.create_model("vit_nano", weights="digits")
    artifact = edgevit.export(model, "onnx", out=tmp_path / "baked", bake_preprocess=True, threads=1)
    pixels = artifact.golden()[0]["image"][:1]
    assert pixels.dtype == np.uint8
    with edgevit.open_session(artifact.path, "torch", threads=1) as source:
        wanted = source.infer({"image": pixels})["logits"]
    with edgevit.open_session(artifact.path, threads=1) as session:
        assert np.abs(session.infer({"image": pixels})["logits"] - wanted).max() < 1e-4


def test_running_the_source_does_not_verify_the_artifact(artifact: Artifact, tmp_path) -> None:
    import shutil

    copy = Artifact.open(shutil.copytree(artifact.path, tmp_path / "copy"))
    tolerance = copy.manifest.parity.tolerance
    copy.update_parity(Parity(status="unverified", reason="needs a device", tolerance=tolerance))
    assert edgevit.verify(copy.path, runtime="torch", threads=1).parity.status == "verified"
    assert Artifact.open(copy.path).manifest.parity.status == "unverified"
    edgevit.verify(copy.path, threads=1)
    assert Artifact.open(copy.path).manifest.parity.status == "verified"


def test_a_factory_that_takes_no_arguments_is_rebuilt(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef tiny():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))\n"
    )
    model = edgevit.create_model(f"{tmp_path / 'mine.py'}:tiny", image_size=32)
    artifact = edgevit.export(model, "onnx", out=tmp_path / "out", threads=1)
    assert edgevit.verify(artifact.path, against="source", threads=1).against.status == "verified"


def test_a_note_behind_the_weights_is_not_part_of_their_path(tmp_path) -> None:
    from edgevit.models.source import RANDOM
    from edgevit.runtimes.torch import _weights

    odd = tmp_path / "mine (1).safetensors"
    assert _weights(RANDOM) is None
    assert _weights("timm pretrained") is None
    assert _weights("digits (position embedding resized)") == "digits"
    odd.touch()
    assert _weights(str(odd)) == str(odd)
