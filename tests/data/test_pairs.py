from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.data.pairs import TILE, smaller
from edgevit.data.source import check_spec, open_data
from edgevit.errors import UsageError


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiles_of_the_bundled_photos_lie_where_their_larger_pictures_do(scale: int) -> None:
    held = open_data(f"pairs:samples×{scale}", split="held-out")
    assert held.targets.kind == "pictures"
    assert {image.shape for image in held.images} == {(TILE, TILE, 3)}
    for image, picture in zip(held.images, held.targets, strict=True):
        assert picture.shape == (TILE * scale, TILE * scale, 3)
        inner = slice(4, -4)  # towards the edge the whole photo's copy saw beyond the tile
        assert np.array_equal(smaller(picture, scale)[inner, inner], image[inner, inner])


def test_no_held_out_tile_is_trained_on() -> None:
    train, held, whole = (open_data("pairs:samplesx2", split=split) for split in ("train", "held-out", "all"))
    assert len(train) + len(held) == len(whole)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in held.images}


def test_two_folders_are_matched_by_the_names_of_their_pictures(tmp_path: Path) -> None:
    wrote(tmp_path, {"low/a.png": 10, "low/b.png": 20, "high/b.bmp": 21, "high/a.png": 11})
    found = open_data(f"pairs:{tmp_path}")
    assert [int(image[0, 0, 0]) for image in found.images] == [10, 20]
    assert [int(picture[0, 0, 0]) for picture in found.targets] == [11, 21]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"low/a.png": 1}, "high: no such folder"),
        ({"low/a.png": 1, "high/a.png": 1, "high/c.png": 1}, "c is in high/ alone"),
        ({"low/a.png": 1, "low/a.bmp": 1, "high/a.png": 1}, "two pictures have the same name"),
    ],
    ids=["one folder", "one picture alone", "one name twice"],
)
def test_pictures_without_their_pair_are_refused(tmp_path: Path, files: dict[str, int], said: str) -> None:
    wrote(tmp_path, files)
    with pytest.raises(UsageError, match=said):
        open_data(f"pairs:{tmp_path}")


def test_pairs_of_a_missing_folder_are_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        check_spec(f"pairs:{tmp_path / 'none'}")


def wrote(folder: Path, files: dict[str, int]) -> None:
    for name, grey in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(folder / name)
