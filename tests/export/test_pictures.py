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
from edgevit.data.source import open_data
from edgevit.images import Preprocess, decode
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


class Opaque(nn.Module):
    """Class 1 where a picture hides what is behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.head = nn.Conv2d(4, 1, 1, bias=False), nn.Linear(1, 2)
        with torch.no_grad():
            self.alpha.weight.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]).reshape(1, 4, 1, 1))
            self.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.head.bias.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.alpha(image).mean((2, 3)))
        return logits


def test_labelled_pictures_keep_their_alpha_for_a_model_that_takes_it(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name, alpha in (("clear", 40), ("opaque", 220)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            image = draw.integers(0, 256, (20, 16, 4), np.uint8)
            image[..., 3] = alpha
            Image.fromarray(image).save(tmp_path / "data" / name / f"{number}.png")
    data = f"folder:{tmp_path / 'data'}"
    steps = {"crop": "squash", "range": "0-1"}
    made = edgevit.export(Opaque(), "onnx", out=tmp_path / "a", image_size=16, data=data, preprocess=steps)
    assert made.manifest.accuracy is not None
    assert made.manifest.accuracy.top1 == 1.0
    assert edgevit.verify(tmp_path / "a", data=data).accuracy.top1 == 1.0


def test_pictures_with_alpha_lie_over_white_for_a_model_without(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 4), np.uint8)
    (tmp_path / "one").mkdir()
    Image.fromarray(image).save(tmp_path / "one/a.png")
    Image.fromarray(image[..., :3]).save(tmp_path / "one/b.png")
    Image.fromarray(image[..., 0]).save(tmp_path / "one/c.png", transparency=int(image[0, 0, 0]))
    found = open_data(f"folder:{tmp_path}").images
    assert [one.shape[2] for one in found] == [4, 3, 4]
    steps = Preprocess(size=(16, 16))
    for index, name in enumerate("abc"):
        assert (steps(found[index]) == steps(decode(tmp_path / "one" / f"{name}.png"))).all()
