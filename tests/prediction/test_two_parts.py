"""A model of two parts, as those that are asked with prompts are: what the first gives is kept, and goes into the
second beside the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import edgevit
from edgevit.cli import app
from edgevit.errors import EdgeVitError, UsageError


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, 8)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"embedding": torch.relu(self.patches(image))}


class Decoder(nn.Module):
    """A mask for the places and kinds of points: (B, N, 2) in shares of the picture, (B, N) of 0, 1 or 2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.place, self.kind = nn.Linear(2, 8), nn.Embedding(3, 8)

    def forward(self, embedding: Tensor, points: Tensor, kinds: Tensor) -> dict[str, Tensor]:
        prompt = (self.place(points) + self.kind(kinds)).mean(1)
        return {"masks": (prompt[:, :, None, None] * embedding).sum(1, keepdim=True)}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder, draw = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    rows = {
        "embedding": draw.random((16, 8, 4, 4), np.float32),
        "points": draw.random((16, 2, 2), np.float32),
        "kinds": draw.integers(0, 3, (16, 2)),
    }
    edgevit.export(Encoder(), "onnx", out=folder / "encoder", image_size=32, task="tensors")
    edgevit.export(Decoder(), "onnx", out=folder / "decoder", inputs=rows, task="tensors")
    Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / "photo.png")
    np.savez(folder / "prompts.npz", points=rows["points"][:3], kinds=rows["kinds"][:3])
    return {path.stem: path for path in folder.iterdir()}


def predict(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["predict", *map(str, words)])
    if isinstance(found.exception, EdgeVitError):  # which ``main`` puts into words
        raise found.exception
    return found.exit_code, found.output


def test_what_one_part_gives_goes_into_the_other_with_every_prompt(parts: Mapping[str, Path], tmp_path: Path) -> None:
    seen, masks = tmp_path / "seen.npz", tmp_path / "masks.npz"
    assert predict(parts["encoder"], parts["photo"], "-o", seen)[0] == 0
    assert predict(parts["decoder"], "--inputs", seen, "--inputs", parts["prompts"], "-o", masks)[0] == 0
    embedding, prompts = np.load(seen)["embedding"], np.load(parts["prompts"])
    assert embedding.shape == (1, 8, 4, 4)
    with torch.no_grad():
        rows = torch.from_numpy(embedding).expand(3, -1, -1, -1)
        want = Decoder()(rows, torch.from_numpy(prompts["points"]), torch.from_numpy(prompts["kinds"]))["masks"]
    np.testing.assert_allclose(np.load(masks)["masks"], want.numpy(), rtol=1e-4, atol=1e-6)


def test_rows_that_do_not_go_together_are_refused(parts: Mapping[str, Path], tmp_path: Path) -> None:
    two, out = tmp_path / "two.npz", tmp_path / "out.npz"
    np.savez(two, embedding=np.zeros((2, 8, 4, 4), np.float32))
    with pytest.raises(UsageError, match=r"prompts.npz has 3 rows, .*two.npz has 2"):
        predict(parts["decoder"], "--inputs", two, "--inputs", parts["prompts"], "-o", out)
    with pytest.raises(UsageError, match="both hold embedding"):
        predict(parts["decoder"], "--inputs", two, "--inputs", two)
    with pytest.raises(UsageError, match="the artifact takes embedding, points, kinds"):
        predict(parts["decoder"], "--inputs", two)
    assert not out.exists()


def test_pictures_that_fail_have_no_row_and_a_file_that_is_there_is_kept(
    parts: Mapping[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "seen.npz"
    code, said = predict(parts["encoder"], parts["photo"], tmp_path / "none.png", parts["photo"], "-o", out)
    assert (code, "1 could not be read" in said) == (1, True)
    assert len(np.load(out)["embedding"]) == 2
    before = out.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        predict(parts["encoder"], parts["photo"], "-o", out)
    assert out.read_bytes() == before
    assert predict(parts["encoder"], parts["photo"], "-o", out, "--force")[0] == 0
    assert len(np.load(out)["embedding"]) == 1
