"""Masks, depth and IDX files as they are published, whole and broken."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import dense_files as made
import numpy as np
import pytest
from PIL import Image

from edgevit.data.content import content_of
from edgevit.data.source import open_data
from edgevit.data.targets import IGNORE
from edgevit.errors import EdgeVitError, UsageError
from edgevit.images import ImageError


def test_masks_are_the_numbers_of_an_index_png_and_255_is_ignored(tmp_path: Path) -> None:
    found = open_data(f"masks:{made.masks(tmp_path)}")
    assert (found.classes, found.labels, found.targets.kind) == (("sky", "sea"), None, "masks")
    assert found.targets[0].tolist() == [[0, 0, 0, 1, 1, IGNORE]] * 4
    assert found.images[3][0, 0].tolist() == [3, 2, 3]


def test_palettes_few_bits_and_sixteen_bits_hold_numbers_too(tmp_path: Path) -> None:
    made.masks(tmp_path, classes=None)
    made.index_png(tmp_path / "masks/0.png", [[3, 200, 255, 0, 1, 2]] * 4, "P")
    Image.fromarray(np.asarray([[1000, 65535, 0, 1, 2, 3]] * 4, np.uint16)).save(tmp_path / "masks/1.png")
    Image.fromarray(np.asarray([[0, 1, 0, 1, 1, 1]] * 4, bool)).save(tmp_path / "masks/2.png")
    targets = open_data(f"masks:{tmp_path}").targets
    assert [targets[index][0].tolist() for index in range(3)] == [
        [3, 200, IGNORE, 0, 1, 2],
        [1000, IGNORE, 0, 1, 2, 3],
        [0, 1, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "masks/3.png").unlink(), "3 is in images/ alone"),
        (lambda folder: made.picture(folder / "images/3.jpg"), "two pictures have the same name"),
        (lambda folder: made.picture(folder / "masks/0.png"), r"0.png: a colour picture \(RGB\)"),
        (
            lambda folder: made.index_png(folder / "masks/0.png", [[2]]),
            "class 2 has no name in classes.txt, which has 2",
        ),
        (lambda folder: (folder / "masks/0.png").write_bytes(b"GIF89a"), "0.png: not a PNG that can be read"),
        (lambda folder: cut(folder / "masks/0.png"), "0.png: not a PNG that can be read"),
        (lambda folder: (folder / "classes.txt").write_text("sky\nsky"), "'sky' is there twice"),
        (lambda folder: (folder / "classes.txt").write_text("sky\n\nsea"), "a line is empty"),
        (lambda folder: shutil.rmtree(folder / "masks"), "masks: no such folder"),
    ],
    ids=["missing", "twice", "colour", "unnamed", "no png", "cut", "names twice", "empty name", "no folder"],
)
def test_masks_that_are_none_are_one_sentence_with_a_next_step(tmp_path: Path, spoil, said: str) -> None:
    spoil(made.masks(tmp_path))
    with pytest.raises(EdgeVitError, match=said) as error:
        _ = open_data(f"masks:{tmp_path}").targets[0]
    assert isinstance(error.value, UsageError | ImageError)
    assert error.value.hint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_a_mask_that_unpacks_to_gigabytes_is_refused_before_it_is(tmp_path: Path) -> None:
    made.masks(tmp_path)
    Image.new("1", (9000, 9000)).save(tmp_path / "masks/0.png")
    with pytest.raises(ImageError, match="9000×9000 pixels are too many"):
        _ = open_data(f"masks:{tmp_path}").targets[0]


def test_a_folder_with_train_and_val_keeps_its_own_split(tmp_path: Path) -> None:
    made.masks(tmp_path / "train", 4, None)
    made.masks(tmp_path / "val", 2, None)
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    parts = [open_data(f"masks:{tmp_path}", split=split) for split in ("train", "held-out", "all")]
    assert [len(one) for one in parts] == [4, 2, 6]
    assert {one.classes for one in parts} == {("sky", "sea")}


# --- what is the same ------------------------------------------------------------------------------------------------


def depth(folder: Path) -> Path:
    for index in range(5):
        made.picture(folder / "images" / f"{index}.png", shade=index)
        (folder / "depth").mkdir(exist_ok=True)
        np.save(folder / "depth" / f"{index}.npy", np.full((4, 6), 1.5 + index, np.float32))
    return folder


def pairs(folder: Path) -> Path:
    for index in range(5):
        made.picture(folder / "low" / f"{index}.png", shade=index)
        made.picture(folder / "high" / f"{index}.png", (12, 8), shade=index)
    return folder


KINDS = {
    "masks": (made.masks, lambda folder: made.index_png(folder / "masks/1.png", [[1] * 6] * 4)),
    "depth": (depth, lambda folder: np.save(folder / "depth/1.npy", np.ones((4, 6), np.float32))),
    "pairs": (pairs, lambda folder: made.picture(folder / "high/1.png", (12, 8), shade=200)),
    "coco": (made.coco, lambda folder: made.coco(folder, annotations=[])),
}


@pytest.mark.parametrize("split", ["all", "held-out"])
@pytest.mark.parametrize("kind", KINDS)
def test_data_is_the_same_at_another_path_and_another_where_its_truth_is(tmp_path: Path, kind: str, split: str) -> None:
    make, change = KINDS[kind]
    first = make(tmp_path / "a")
    second = Path(shutil.copytree(first, tmp_path / "b"))
    one, other = (content_of(open_data(f"{kind}:{folder}", split=split)) for folder in (first, second))
    assert one == other
    change(second)
    whole = content_of(open_data(f"{kind}:{first}"))
    assert whole.shared(content_of(open_data(f"{kind}:{second}"))) == len(whole) - 1


def test_masks_whose_classes_have_other_names_are_other_data(tmp_path: Path) -> None:
    before = content_of(open_data(f"masks:{made.masks(tmp_path)}"))
    (tmp_path / "classes.txt").write_text("sea\nsky\n")
    assert content_of(open_data(f"masks:{tmp_path}")).shared(before) == 0


# --- depth -----------------------------------------------------------------------------------------------------------


def test_whole_numbers_are_millimetres_or_what_the_scale_says_and_floats_are_metres(tmp_path: Path) -> None:
    made.picture(tmp_path / "images/a.png")
    made.picture(tmp_path / "images/b.png")
    (tmp_path / "depth").mkdir()
    Image.fromarray(np.asarray([[0, 500, 1000, 65535, 1, 2]] * 4, np.uint16)).save(tmp_path / "depth/a.png")
    np.save(tmp_path / "depth/b.npy", np.asarray([[0, -1, np.nan, np.inf, 2.5, 80]] * 4))
    targets = open_data(f"depth:{tmp_path}").targets
    assert targets[0][0] == pytest.approx([0, 0.5, 1, 65.535, 0.001, 0.002])
    assert targets[1][0].tolist() == [0, 0, 0, 0, 2.5, 80]
    assert targets[1].dtype == np.float32
    (tmp_path / "scale.txt").write_text("0.00390625\n")
    targets = open_data(f"depth:{tmp_path}").targets
    assert targets[0][0, 2] == pytest.approx(1000 / 256)
    assert targets[1][0, 4] == 2.5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: np.save(folder / "depth/0.npy", np.zeros((2, 3, 4))), r"shape \(2, 3, 4\), no depth map"),
        (lambda folder: np.save(folder / "depth/0.npy", np.zeros((2, 3), bool)), "bool of shape"),
        (lambda folder: np.save(folder / "depth/0.npy", np.array([[{}]]), allow_pickle=True), "not a readable .npy"),
        (lambda folder: (folder / "depth/0.npy").write_bytes(b"\x80\x04K\x01."), "0.npy: not a readable .npy"),
        (lambda folder: cut(folder / "depth/0.npy"), "0.npy: not a readable .npy"),
        (lambda folder: (folder / "scale.txt").write_text("-1"), "'-1' is no number of metres"),
        (lambda folder: (folder / "scale.txt").write_text("nan"), "'nan' is no number of metres"),
    ],
    ids=["rank", "bool", "objects", "pickle", "cut", "negative", "nan"],
)
def test_depth_that_is_none_is_one_sentence_with_a_next_step(tmp_path: Path, spoil, said: str) -> None:
    spoil(depth(tmp_path))
    with pytest.raises(UsageError, match=said) as error:
        _ = open_data(f"depth:{tmp_path}").targets[0]
    assert error.value.hint


# --- IDX -------------------------------------------------------------------------------------------------------------


def mnist(folder: Path) -> Path:
    for part, count in (("train", 6), ("t10k", 3)):
        values = np.arange(count * 20).reshape(count, 4, 5)
        made.idx(folder / f"{part}-images-idx3-ubyte", values)
        made.idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 3)
    return folder


def packed(folder: Path, *, keep: bool) -> None:
    for path in list(folder.iterdir()):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        if not keep:
            path.unlink()


@pytest.mark.parametrize("how", ["plain", "packed", "both"])
def test_mnist_is_read_as_it_is_published_and_its_test_files_are_held_out(tmp_path: Path, how: str) -> None:
    mnist(tmp_path)
    if how != "plain":
        packed(tmp_path, keep=how == "both")
    whole, train, held = (open_data(f"idx:{tmp_path}", split=split) for split in ("all", "train", "held-out"))
    assert [len(one) for one in (whole, train, held)] == [9, 6, 3]
    assert whole.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert held.classes == ("0", "1", "2")
    assert held.images[1].shape == (4, 5, 3)
    assert held.images[1][0, 1].tolist() == [21] * 3
    (tmp_path / "classes.txt").write_text("shirt\nshoe\nbag")
    assert open_data(f"idx:{tmp_path}").classes == ("shirt", "shoe", "bag")


def test_one_file_of_images_is_a_source_as_well(tmp_path: Path) -> None:
    assert len(open_data(f"idx:{mnist(tmp_path) / 't10k-images-idx3-ubyte'}")) == 3


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: cut(folder / IMAGES), "44 bytes, where it says 120"),
        (
            lambda folder: (folder / IMAGES).write_bytes((folder / IMAGES).read_bytes() + b"x"),
            "more bytes, where it says",
        ),
        (
            lambda folder: (folder / IMAGES).write_bytes(b"\0\0\x0d\x03" + bytes(12)),
            "not an IDX file of bytes in 3 dim",
        ),
        (lambda folder: (folder / IMAGES).write_bytes(b"\0\0\x08\x03" + b"\xff" * 12), "says it holds 4294967295×"),
        (lambda folder: (folder / IMAGES).write_bytes(b"\0\0\x08\x03" + bytes(12)), "says it holds 0×0×0 bytes"),
        (lambda folder: (folder / IMAGES).write_bytes(b""), "not an IDX file"),
        (lambda folder: made.idx(folder / "train-labels-idx1-ubyte", [1]), "1 labels for 6 images"),
        (lambda folder: (folder / "train-labels-idx1-ubyte").unlink(), "train-labels-idx1-ubyte: no such file"),
        (lambda folder: (folder / "classes.txt").write_text("one"), "label 2 has no name"),
        (lambda folder: made.idx(folder / "letters-train-images-idx3-ubyte", np.zeros((1, 4, 5))), "both images that"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "no IDX files of images here"),
    ],
    ids=["cut", "longer", "floats", "vast", "none", "empty", "few", "no labels", "unnamed", "two sets", "no files"],
)
def test_idx_files_that_are_none_are_one_sentence_with_a_next_step(tmp_path: Path, spoil, said: str) -> None:
    spoil(mnist(tmp_path))
    with pytest.raises(UsageError, match=said) as error:
        open_data(f"idx:{tmp_path}")
    assert error.value.hint


def test_a_gzip_that_is_cut_or_swells_is_one_sentence(tmp_path: Path) -> None:
    packed(mnist(tmp_path), keep=False)
    path = tmp_path / f"{IMAGES}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UsageError, match=r"(broken gzip|bytes, where it says)"):
        open_data(f"idx:{tmp_path}")
    path.write_bytes(b"\x1f\x8bnothing of the kind")
    with pytest.raises(UsageError, match="broken gzip"):
        open_data(f"idx:{tmp_path}")
    path.write_bytes(gzip.compress(gzip.decompress(whole) + bytes(50 << 20)))
    with pytest.raises(UsageError, match="more bytes, where it says 120"):
        open_data(f"idx:{tmp_path}")
