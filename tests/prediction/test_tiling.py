"""Pictures larger than the model: tiles that overlap give what the whole would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import edgevit
from edgevit.images import ImageError
from edgevit.prediction import tiling
from edgevit.prediction.tiling import Span, Tiling, spans
from edgevit.runtimes.base import open_session
from edgevit.tasks.reading import Reading

torch.set_num_threads(1)


class Doubled(nn.Module):
    """Twice as large: two convolutions of 3×3 see two pixels around each, a quarter of the overlap of 8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.last(self.first(image).relu()), 2)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles") / "doubled"
    edgevit.export(
        Doubled(), "onnx", out=folder, image_size=(32, 24), task="restore", batch="1-3", threads=1,
        preprocess={"crop": "pad", "range": "0-1"},
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("size", [(71, 50), (32, 24), (33, 90), (20, 60), (5, 7)], ids=str)
def test_a_picture_in_tiles_is_what_the_model_makes_of_the_whole(artifact: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with torch.no_grad():
        row = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))[None]
        whole = Doubled()(row)[0].numpy()
    with open_session(artifact, threads=1) as session:
        found = Tiling.of(session, Reading.of(session.artifact)).stitched(image)
    assert found.shape == (3, 2 * size[0], 2 * size[1])
    # where a picture does not fill the frame, the model sees it go on, and zeros where torch is asked about it alone
    seen = tuple(slice(0, 2 * side - (4 if side < frame else 0)) for side, frame in zip(size, (32, 24), strict=True))
    assert np.abs(found[:, seen[0], seen[1]] - whole[:, seen[0], seen[1]]).max() <= 1e-6


def test_the_picture_is_of_twice_the_size_whatever_that_is(artifact: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((71, 50, 3), np.uint8)).save(tmp_path / "a.png")
    (answer,) = edgevit.predict(artifact, [tmp_path / "a.png"], threads=1)
    assert answer.record()["size"] == [142, 100]


def test_a_picture_too_large_to_be_made_is_one_sentence(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MAX_PIXELS", 1000)
    with open_session(artifact, threads=1) as session, pytest.raises(ImageError, match="100×142 pixels is more than"):
        Tiling.of(session, Reading.of(session.artifact)).answer(np.zeros((71, 50, 3), np.uint8))


@given(st.integers(1, 200), st.integers(8, 40))
def test_tiles_cover_every_pixel_and_leave_out_the_edges_of_others(whole: int, tile: int) -> None:
    overlap = tile // 4
    total = np.zeros(whole)
    for span in spans(whole, tile, overlap):
        assert 0 <= span.start <= span.start + span.length <= whole
        total[span.start : span.start + span.length] += span.weights(overlap, 1)
    assert total.min() >= 1 - 1e-6


def test_seams_are_mixed_in_the_middle_of_the_overlap() -> None:
    assert Span(16, 24, 60).weights(8, 1).tolist() == [0, 0, 0, 0.25, 0.75, *[1] * 14, 0.75, 0.25, 0, 0, 0]
