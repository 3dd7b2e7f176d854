"""Models that decide inside the graph are exported, proved where they are sure, and proved again from the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import edgevit
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed
from edgevit.proof.golden import golden_reference
from edgevit.proof.parity import judge


class Segmenter(nn.Module):
    """(B, 3, 16, 16) -> a map of 5 classes, and the logits that it was decided by."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 5, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        logits = self.body(image)
        return {"logits_map": logits, "labels": logits.argmax(1)}


class Detector(nn.Module):
    """(B, 3, 16, 16) -> the 6 best of 64 places: scores, labels, boxes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.boxes = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(3, 4, 2, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        scores, index = self.scores(image).sigmoid().flatten(1).topk(6)
        boxes = self.boxes(image).flatten(2).transpose(1, 2)
        place = (index % 64)[..., None].expand(-1, -1, 4)
        return {"scores": scores, "labels": index // 64, "boxes": boxes.gather(1, place)}


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("decided") / "segmenter"
    return edgevit.export(Segmenter(), "onnx", out=out, image_size=16, precision=request.param).path


def test_a_map_decided_in_the_graph_is_proved_where_it_is_clear(segmenter: Path) -> None:
    parity = Artifact.open(segmenter).manifest.parity
    labels, logits = parity.outputs["labels"], parity.outputs["logits_map"]
    assert parity.status == "verified"
    assert labels.max_rel == 0.0
    assert labels.clear is not None
    assert 0.5 < labels.clear <= 1.0
    assert logits.clear is None
    assert parity.bounds["labels"].decided


def test_the_folder_says_which_golden_values_are_clear(segmenter: Path) -> None:
    artifact = Artifact.open(segmenter)
    reference = golden_reference(artifact)
    clear = reference.clear["labels"]
    assert (clear.dtype, clear.shape) == (np.bool_, (4, 16, 16))
    turned = {name: value.copy() for name, value in reference.outputs.items()}
    turned["labels"] = np.where(clear, turned["labels"], (turned["labels"] + 1) % 5)
    assert judge({1: turned}, reference, None, "fake").status == "verified"
    place = tuple(np.argwhere(clear)[0])
    turned["labels"][place] = (turned["labels"][place] + 1) % 5
    assert judge({1: turned}, reference, None, "fake").status == "failed"
    assert edgevit.verify(segmenter).parity.status == "verified"


def test_a_graph_that_decides_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnx.save

    def wrong(model, *args, **kwargs):
        for node in model.graph.node:
            if node.op_type == "ArgMax":
                node.op_type = "ArgMin"
        return real(model, *args, **kwargs)

    monkeypatch.setattr(onnx, "save", wrong)
    monkeypatch.setattr(onnx, "save_model", wrong)
    with pytest.raises(ParityFailed, match="values that are clear of noise"):
        edgevit.export(Segmenter(), "onnx", out=tmp_path / "wrong", image_size=16)


def test_the_best_of_a_detector_are_proved_as_ranks(tmp_path: Path) -> None:
    artifact = edgevit.export(Detector(), "onnx", out=tmp_path / "detector", image_size=16, batch="1-3")
    parity = artifact.manifest.parity
    assert (parity.status, parity.batches) == ("verified", (1, 3))
    assert parity.bounds["boxes"].tolerance == 1e-5
    assert parity.outputs["boxes"].clear == 1.0
