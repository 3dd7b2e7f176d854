"""A model with large answers is proved row by row, and its golden pair is a sample that a device can judge by."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import edgevit
from edgevit.artifact.manifest import BatchRange
from edgevit.artifact.opened import Artifact
from edgevit.artifact.shelf import Shelf
from edgevit.errors import BadArtifact, ParityFailed
from edgevit.export.noise import noise
from edgevit.export.prepared import Answers
from edgevit.export.reference import answers
from edgevit.proof.golden import golden_reference
from edgevit.proof.parity import judge

SIDE = 1056  # float32: 4.46 MB a channel


class Maps(nn.Module):
    """(B, 3, 33, 33) -> a map of 1056², and the mean of every channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 1, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.body(image)
        return {
            "depth": nn.functional.interpolate(found, scale_factor=32.0, mode="bilinear"),
            "mean": found.mean((2, 3)),
        }


class Labels(Maps):
    """(B, 3, 33, 33) -> which of two classes each of 1056² pixels is of."""

    def forward(self, image: Tensor) -> Tensor:
        depth = super().forward(image)["depth"]
        return torch.cat([depth, 0.1 - depth], 1).argmax(1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("large") / "maps"
    return edgevit.export(Maps(), "onnx", out=out, image_size=33, batch="1-3", form="train").path


def test_a_large_answer_is_proved_and_its_golden_rows_are_a_sample(built: Path) -> None:
    artifact = Artifact.open(built)
    parity, sample = artifact.manifest.parity, artifact.manifest.sampled["depth"]
    assert (parity.status, parity.images, parity.batches) == ("verified", 16, (1, 3))
    assert parity.outputs["depth"].cosine > 0.999999
    assert set(artifact.manifest.sampled) == {"depth"}
    inputs, outputs = artifact.golden()
    assert (set(inputs), set(outputs)) == ({"image"}, {"mean"})
    kept = artifact.golden_samples()["depth"]
    assert kept.values.shape == (4, -(-SIDE * SIDE // sample.stride))
    assert (built / "golden.npz").stat().st_size < 5 << 20
    assert edgevit.verify(built).parity.status == "verified"


def test_a_device_judges_the_sample_and_the_figures_of_the_rest(built: Path) -> None:
    artifact = Artifact.open(built)
    reference = golden_reference(artifact)
    exact = answers(Maps(), reference.inputs, BatchRange(min=1, max=1)).whole.outputs
    right = {name: np.stack(list(rows)).astype(np.float32) for name, rows in exact.items()}
    assert judge({1: right}, reference, None, "fake").status == "verified"
    stride = artifact.manifest.sampled["depth"].stride
    for place, wrong in ((stride * 50, True), (stride * 50 + 1, False)):
        spoilt = {name: value.copy() for name, value in right.items()}
        spoilt["depth"].reshape(4, -1)[2, place] += 0.01
        assert (judge({1: spoilt}, reference, None, "fake").status == "failed") is wrong
    spoilt = {name: value.copy() for name, value in right.items()}
    unkept = np.ones(SIDE * SIDE, bool)
    unkept[::stride] = False
    spoilt["depth"].reshape(4, -1)[:, unkept] *= 1.01  # all but the sample
    parity = judge({1: spoilt}, reference, None, "fake")
    assert parity.status == "failed"
    assert "depth differs by" in str(parity.reason)
    assert judge({1: {**right, "depth": right["depth"][..., :-1]}}, reference, None, "fake").status == "failed"


def test_a_wrong_graph_is_refused_in_every_value_at_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnx.save

    def wrong(model, *args, **kwargs):
        for weight in model.graph.initializer:
            if weight.dims[:2] == [1, 8]:
                weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.001, weight.name))
        return real(model, *args, **kwargs)

    monkeypatch.setattr(onnx, "save", wrong)
    monkeypatch.setattr(onnx, "save_model", wrong)
    with pytest.raises(ParityFailed, match="differs by"):
        edgevit.export(Maps(), "onnx", out=tmp_path / "wrong", image_size=33, form="train")


def test_a_map_of_labels_is_sampled_with_what_is_clear_of_it(tmp_path: Path) -> None:
    path = edgevit.export(Labels(), "onnx", out=tmp_path / "labels", image_size=33, form="train").path
    artifact = Artifact.open(path)
    reference = golden_reference(artifact)
    kept = reference.samples["masks"]
    assert artifact.manifest.parity.status == "verified"
    assert reference.clear["masks"].shape == kept.values.shape
    assert kept.figures is not None
    assert edgevit.verify(path).parity.outputs["masks"].max_rel == 0.0
    exact = answers(Labels(), reference.inputs, BatchRange(min=1, max=1)).whole.outputs["output"]
    labels = np.stack(list(exact))
    assert judge({1: {"masks": labels}}, reference, None, "fake").status == "verified"
    assert judge({1: {"masks": 1 - labels}}, reference, None, "fake").status == "failed"


def test_against_the_source_is_judged_row_by_row_too(built: Path) -> None:
    assert edgevit.verify(built, against=built).against is not None


def test_a_sample_of_another_form_than_the_manifest_says_is_refused(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "other")
    text = (tmp_path / "other" / "edgevit.json").read_text()
    stride = Artifact.open(built).manifest.sampled["depth"].stride
    assert f'"stride": {stride}' in text
    (tmp_path / "other" / "edgevit.json").write_text(text.replace(f'"stride": {stride}', f'"stride": {stride + 2}'))
    with pytest.raises(BadArtifact, match=r"golden.npz in .* cannot be read"):
        Artifact.open(tmp_path / "other").golden_samples()


def test_large_rows_of_the_reference_and_its_noise_are_on_the_disk() -> None:
    rows = {"image": np.random.default_rng(0).normal(size=(16, 3, 33, 33)).astype(np.float32)}
    found = answers(Maps(), rows, BatchRange(min=1, max=1))
    assert isinstance(found, Answers)
    assert isinstance(found.whole.outputs["depth"], Shelf)
    assert isinstance(found.whole.outputs["mean"], np.ndarray)
    assert found.computed == "float64"
    assert 1e-9 < noise(Maps(), rows, found, "fp32").outputs["depth"].error < 1e-6
