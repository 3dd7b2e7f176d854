"""Data is known by what it holds: the path, the names of files and their order are no part of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.data.content import Content, content_of
from edgevit.data.source import open_data
from edgevit.images import ImageError


def photos(folder: Path, count: int = 10) -> Path:
    for row, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (6, 6), (row * 90, index, 7)).save(folder / name / f"{index}.png")
    return folder


def known(spec: str, **part: str) -> Content:
    return content_of(open_data(spec, **part))


@pytest.mark.parametrize("split", ["all", "held-out"])
def test_a_folder_is_the_same_at_another_path(tmp_path: Path, split: str) -> None:
    first = photos(tmp_path / "a")
    second = Path(shutil.copytree(first, tmp_path / "b" / "elsewhere"))
    one, other = (known(f"folder:{folder}", split=split) for folder in (first, second))
    assert one == other
    assert len(one) == (20 if split == "all" else 4)


def test_names_of_files_do_not_matter_but_classes_and_bytes_do(tmp_path: Path) -> None:
    folder = photos(tmp_path / "a")
    before = known(f"folder:{folder}")
    (folder / "ant" / "3.png").rename(folder / "ant" / "z.png")
    assert known(f"folder:{folder}") == before
    (folder / "ant" / "z.png").rename(folder / "bee" / "z.png")
    assert known(f"folder:{folder}").shared(before) == 19
    Image.new("RGB", (6, 6), (1, 2, 3)).save(folder / "bee" / "1.png")
    assert known(f"folder:{folder}").shared(before) == 18
    (folder / "bee" / "2.png").unlink()
    assert known(f"folder:{folder}").shared(before) == 17


def test_every_source_has_a_content(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 5, 3), dtype=np.uint8)
    labels = np.arange(9) % 3
    for name, rows in (("a", pixels), ("b", pixels[::-1])):
        np.savez(tmp_path / f"{name}.npz", images=rows, labels=labels if name == "a" else labels[::-1])
    assert known(f"npz:{tmp_path / 'a.npz'}") == known(f"npz:{tmp_path / 'b.npz'}")
    records = np.concatenate([labels.astype(np.uint8)[:, None], np.zeros((9, 3072), np.uint8)], axis=1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("data_batch_1.bin", "test_batch.bin"):
            (tmp_path / name / file).write_bytes(records.tobytes())
        (tmp_path / name / "batches.meta.txt").write_text("a\nb\nc\n")
    one, two = (known(f"cifar10:{tmp_path / name}", split="held-out") for name in ("one", "two"))
    assert one == two
    assert len(known("digits", split="held-out")) == 360
    assert known("digits", split="held-out").shared(known("digits")) == 360
    own = tmp_path / "own"
    photos(own / "train")
    photos(own / "val", 3)
    assert known(f"folder:{own}", split="held-out") == known(f"folder:{own / 'val'}")
    assert known(f"folder:{own}").shared(known(f"folder:{own / 'train'}")) == 20


def test_the_same_picture_twice_counts_twice_only_where_it_is_twice(tmp_path: Path) -> None:
    rows = np.zeros((4, 5, 5, 3), np.uint8)
    np.savez(tmp_path / "four.npz", images=rows)
    np.savez(tmp_path / "two.npz", images=rows[:2])
    four, two = known(f"npz:{tmp_path / 'four.npz'}"), known(f"npz:{tmp_path / 'two.npz'}")
    assert four.shared(two) == two.shared(four) == 2


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    data = open_data(f"folder:{photos(tmp_path / 'a')}")
    (tmp_path / "a" / "ant" / "0.png").unlink()
    with pytest.raises(ImageError, match="no such file"):
        content_of(data)
