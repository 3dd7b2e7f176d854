from __future__ import annotations

import json

import numpy as np
import pytest

import edgevit
from edgevit.artifact import Artifact
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
