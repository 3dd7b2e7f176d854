"""Models of other pictures than RGB, all the way to a verified artifact, a proof of their steps and an answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edgevit
from edgevit.artifact.opened import Artifact
from edgevit.proof.claims import undecided
from edgevit.proof.diagnosis import preprocessing_differs

torch.set_num_threads(1)


class Colours(nn.Module):
    """The mean of each channel, over the upper half and over all: what is where, and in which order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(channels)[..., None, None])
            self.mix.bias.zero_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.mix(image)
        return torch.cat([found[:, :, :8].mean((2, 3)), found.mean((2, 3))], 1)


@pytest.mark.parametrize(
    ("channels", "said", "baked"),
    [
        (1, {"crop": "letterbox"}, False),
        (3, {"crop": "pad", "color": "BGR", "range": "0-255"}, True),
        (4, {"crop": "squash", "mean": 0.5, "std": 0.5}, False),
    ],
    ids=["grey letterboxed", "BGR padded and baked", "RGBA"],
)
def test_pictures_of_every_kind_are_proved_and_answered(tmp_path: Path, channels: int, said: dict, baked: bool) -> None:
    made = edgevit.export(
        Colours(channels), "onnx", out=tmp_path / "a", image_size=16, preprocess=said, bake_preprocess=baked,
        task="tensors", threads=1,
    )  # fmt: skip
    assert made.manifest.parity.status == "verified"
    steps = made.manifest.preprocess
    assert (steps.channels, steps.baked) == (channels, baked)
    assert made.manifest.inputs[0].shape == ((1, 16, 16, channels) if baked else (1, channels, 16, 16))
    artifact = Artifact.open(tmp_path / "a")
    pictures, golden = artifact.golden_pixels(), artifact.golden()[0]["image"]
    assert preprocessing_differs(steps.batch(pictures), golden, steps) is None
    assert list(undecided(steps, pictures, golden)) == []
    for other in ({"crop": "center"}, {"place": "center"}, {"pad_value": 0}, {"color": "RGB"}):
        changed = steps.model_copy(update=other)
        if channels == 3 and changed != steps:
            assert preprocessing_differs(changed.batch(pictures), golden, changed)


def test_red_is_the_third_channel_of_a_model_that_takes_blue_first(tmp_path: Path) -> None:
    model = Colours(3)
    edgevit.export(
        model, "onnx", out=tmp_path / "a", image_size=16, threads=1, task="tensors",
        preprocess={"crop": "squash", "color": "BGR", "range": "0-1"},
    )  # fmt: skip
    red = np.full((16, 16, 3), (255, 0, 0), np.uint8)
    with edgevit.open_session(tmp_path / "a", threads=1) as session:
        row = session.artifact.manifest.preprocess(red)[None]
        (found,) = session.infer({"image": row}).values()
    assert found[0].tolist() == [0, 0, 1, 0, 0, 1]
    assert json.loads((tmp_path / "a/edgevit.json").read_text())["preprocess"]["color"] == "BGR"


def test_alpha_of_a_file_reaches_a_model_that_takes_it(tmp_path: Path) -> None:
    image = np.full((16, 16, 4), (10, 20, 30, 0), np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    from edgevit.prediction.picture import of_file

    edgevit.export(
        Colours(4), "onnx", out=tmp_path / "a", image_size=16, threads=1, task="tensors",
        preprocess={"crop": "squash", "range": "0-255"},
    )  # fmt: skip
    steps = Artifact.open(tmp_path / "a").manifest.preprocess
    row = steps(of_file(tmp_path / "x.png").pixels(steps.pixel_channels))
    assert np.abs(row[:, 0, 0] - [10, 20, 30, 0]).max() < 1e-5
