from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import edgevit
from edgevit.artifact.manifest import BatchRange, Parity, TensorSpec, WeightsInfo
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, Unsupported
from edgevit.models.loading.source import RANDOM, state_sha256
from edgevit.runtimes.torch import TorchSession, _weights, rebuild


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
    copy = shutil.copytree(artifact.path, tmp_path / "copy")
    manifest = json.loads((copy / "edgevit.json").read_text())
    manifest["model"]["weights"]["state_sha256"] = "0" * 64
    (copy / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="are not those of the export"):
        edgevit.open_session(copy, "torch")


def test_another_device_is_not_silently_replaced(artifact: Artifact) -> None:
    with pytest.raises(Unsupported, match="not on cuda"):
        edgevit.open_session(artifact.path, "torch", provider="cuda")


def test_a_baked_artifact_s_pixels_are_normalised_before_the_source_model(make_artifact) -> None:
    """Conv, mean and linear stay out of it: the module here hands its input on."""
    opened = Artifact.open(make_artifact())
    preprocess = opened.manifest.preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    fields = {
        "preprocess": preprocess.model_copy(update={"baked": True}),
        "batch": BatchRange(min=2, max=2),
        "inputs": (TensorSpec(name="image", dtype="uint8", shape=(2, 8, 8, 3), role="image"),),
    }
    artifact = Artifact(opened.path, opened.manifest.model_copy(update=fields))
    got = TorchSession(artifact, 1, nn.Identity()).infer({"image": pixels})["logits"]
    assert np.abs(got - preprocess.normalise(pixels).transpose(0, 3, 1, 2)).max() < 1e-6


def test_read_only_and_reversed_arrays_are_taken(make_artifact) -> None:
    artifact = Artifact.open(make_artifact())
    image = np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8)[:, ::-1]
    image.flags.writeable = False
    assert (TorchSession(artifact, 1, nn.Identity()).infer({"image": image})["logits"] == image).all()


class Named(nn.Module):
    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": image + 1, "logits": image}


def test_outputs_of_a_dict_are_taken_by_name_and_a_wrong_number_is_refused(make_artifact) -> None:
    opened = Artifact.open(make_artifact())
    image = np.zeros((1, 3, 8, 8), np.float32)
    assert (TorchSession(opened, 1, Named()).infer({"image": image})["logits"] == 0).all()
    other = TensorSpec(name="mask", dtype="float32", shape=(1, 4), role="mask")
    fields = {"outputs": (*opened.manifest.outputs, other, other)}
    session = TorchSession(Artifact(opened.path, opened.manifest.model_copy(update=fields)), 1, Named())
    with pytest.raises(EdgeVitError, match="lists 3 outputs, its model gives 2"):
        session.infer({"image": image})


def test_running_the_source_does_not_verify_the_artifact(artifact: Artifact, tmp_path) -> None:
    copy = Artifact.open(shutil.copytree(artifact.path, tmp_path / "copy"))
    tolerance = copy.manifest.parity.tolerance
    copy.update_parity(Parity(status="unverified", reason="needs a device", tolerance=tolerance))
    assert edgevit.verify(copy.path, runtime="torch", threads=1).parity.status == "verified"
    assert Artifact.open(copy.path).manifest.parity.status == "unverified"
    edgevit.verify(copy.path, threads=1)
    assert Artifact.open(copy.path).manifest.parity.status == "verified"


def test_a_factory_that_takes_no_arguments_is_rebuilt(make_artifact, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef tiny():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))\n"
    )
    name = f"{tmp_path / 'mine.py'}:tiny"
    digest = state_sha256(edgevit.create_model(name))
    manifest = Artifact.open(make_artifact()).manifest
    model = manifest.model.model_copy(
        update={
            "name": name,
            "source": "file",
            "weights": WeightsInfo(origin="random (seed 0)", state_sha256=digest),
        }
    )
    artifact = Artifact(tmp_path, manifest.model_copy(update={"model": model}))
    assert state_sha256(rebuild(artifact)) == digest


def test_a_note_behind_the_weights_is_not_part_of_their_path(tmp_path) -> None:
    odd = tmp_path / "mine (1).safetensors"
    assert _weights(RANDOM) is None
    assert _weights("digits (position embedding resized)") == "digits"
    odd.touch()
    assert _weights(str(odd)) == str(odd)
