"""COCO's annotations: what they say of every image, in all of their forms, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path

import dense_files as made
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edgevit.data.content import content_of
from edgevit.data.outlines import mask_of
from edgevit.data.rle import decoded, encoded
from edgevit.data.source import open_data
from edgevit.errors import UsageError


def test_boxes_outlines_run_lengths_and_crowds_are_objects(tmp_path: Path) -> None:
    found = open_data(f"coco:{made.coco(tmp_path)}")
    assert (found.classes, found.targets.kind, len(found)) == (("ant", "dog"), "objects", 2)
    both = found.targets[0]
    assert both.boxes.tolist() == [[1, 1, 4, 3], [0, 0, 1, 4]]
    assert (both.classes.tolist(), both.crowd.tolist()) == ([1, 0], [False, True])
    assert np.argwhere(both.masks[0]).tolist() == [[y, x] for y in (1, 2) for x in (1, 2, 3)]
    assert both.masks[1].tolist() == [[True] + [False] * 5] * 4
    none = found.targets[1]
    assert (none.boxes.shape, none.masks.shape) == ((0, 4), (0, 4, 6))
    assert found.images[1][0, 0, 0] == 77


def test_the_file_itself_may_be_named_and_its_images_lie_where_coco_puts_them(tmp_path: Path) -> None:
    made.coco(tmp_path)
    made.coco(tmp_path, "annotations/instances_train.json", annotations=[])
    with pytest.raises(UsageError, match="2 files of annotations") as error:
        open_data(f"coco:{tmp_path}")
    assert error.value.hint == f"name one of them: coco:{tmp_path}/annotations/instances_train.json"
    named = open_data(f"coco:{tmp_path}/annotations/instances_val.json")
    assert len(named.targets[0].boxes) == 2
    (tmp_path / "val").rename(tmp_path / "annotations" / "images")
    assert len(open_data(f"coco:{tmp_path}/annotations/instances_val.json")) == 2


def panoptic(folder: Path) -> Path:
    numbers = np.zeros((4, 6, 3), np.uint8)
    numbers[:, :3], numbers[:, 3:5] = (5, 1, 0), (0, 0, 2)
    place = folder / "annotations" / "panoptic_val" / "a.png"
    place.parent.mkdir(parents=True)
    Image.fromarray(numbers).save(place)
    segments = [
        {"id": 261, "category_id": 3, "iscrowd": 0},
        {"id": 131072, "category_id": 20, "iscrowd": 1, "bbox": [3, 0, 2, 4]},
    ]
    note = {"image_id": 7, "file_name": "a.png", "segments_info": segments}
    return made.coco(folder, "annotations/panoptic_val.json", annotations=[note])


def test_panoptic_segments_are_objects_with_the_masks_of_their_png(tmp_path: Path) -> None:
    there = open_data(f"coco:{panoptic(tmp_path)}").targets[0]
    assert there.boxes.tolist() == [[0, 0, 3, 4], [3, 0, 5, 4]]
    assert (there.classes.tolist(), there.crowd.tolist()) == ([0, 1], [False, True])
    assert there.masks.sum(axis=(1, 2)).tolist() == [12, 8]


def note(**changes) -> dict:
    return {**made.annotations()["annotations"][0], **changes}


def with_note(**changes) -> dict:
    return {"annotations": [note(**changes)]}


IMAGE = made.annotations()["images"][0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 5}, "images is no list"),
        ({"images": [5]}, "images 0 has no id that is a whole number"),
        ({"images": [{**IMAGE, "width": "6"}]}, "images 0 has no width that is a whole number"),
        ({"images": [{**IMAGE, "width": 10**9}]}, "a.png is said to have 1000000000×4 pixels"),
        ({"images": [IMAGE, IMAGE]}, "two images have the same id"),
        ({"images": [{**IMAGE, "file_name": "gone.png"}]}, "its image gone.png is in none of"),
        ({"images": [{**IMAGE, "file_name": "../../x.png"}]}, "'../../x.png' is no file beside it"),
        ({"images": [{**IMAGE, "file_name": "/etc/passwd"}]}, "'/etc/passwd' is no file beside it"),
        ({"images": [{**IMAGE, "file_name": "a\0.png"}]}, "is no file beside it"),
        ({"categories": [{"id": 3, "name": "ant"}] * 2}, "two categories have the same id or name"),
        (with_note(image_id=8), "image 8 is annotated and not listed"),
        (with_note(category_id=4), "category 4 has no name"),
        (with_note(category_id=[3]), "annotations 0 has no category_id that is a whole number"),
        ({"annotations": [[1]]}, "annotations 0 has no image_id"),
        (with_note(bbox=[1, 2, 3]), r"a.png: a box is \[1, 2, 3\], not x, y, width and height"),
        (with_note(bbox=[1, 2, -3, 4]), "a box is -3×4 pixels large"),
        (with_note(bbox=None, segmentation=None), "a box is None"),
        (with_note(segmentation=[[1, 2, 3]]), "neither run lengths nor lists"),
        (with_note(segmentation=[["1"] * 8]), "neither run lengths nor lists"),
        (with_note(segmentation={"size": [4, 6], "counts": [3]}), "runs are 3 pixels long"),
        (with_note(segmentation={"size": [4, 6], "counts": [-1, 25]}), "no whole numbers"),
        (with_note(segmentation={"size": [4, 6], "counts": "ÿ"}), "no whole numbers"),
        (
            with_note(segmentation={"size": [10**6, 10**6], "counts": [10**12]}),
            r"a mask's size is \[1000000, 1000000\], its image's \[4, 6\]",
        ),
        (with_note(segmentation={"counts": [24]}), "a mask's size is None"),
    ],
    ids=range(24),
)
def test_annotations_that_are_none_are_one_sentence_with_a_next_step(tmp_path: Path, changes: dict, said: str) -> None:
    made.coco(tmp_path, **changes)
    with pytest.raises(UsageError, match=said) as error:
        _ = open_data(f"coco:{tmp_path}").targets[0]
    assert error.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": []}', "[" * 100_000, '{"images": NaN}', "\xff"])
def test_json_that_is_none_of_coco_is_one_sentence(tmp_path: Path, text: str) -> None:
    made.coco(tmp_path)
    (tmp_path / "annotations/instances_val.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UsageError, match="not COCO annotations"):
        open_data(f"coco:{tmp_path}")


def test_more_masks_than_memory_should_hold_are_refused(tmp_path: Path) -> None:
    image = {**IMAGE, "width": 8000, "height": 8000}
    made.coco(tmp_path, images=[image], annotations=[note()] * 20)
    with pytest.raises(UsageError, match="20 masks are too many for one image of its size"):
        _ = open_data(f"coco:{tmp_path}").targets[0]


def test_the_numbers_that_a_file_gives_are_no_part_of_what_it_says(tmp_path: Path) -> None:
    first = made.coco(tmp_path / "a")
    text = json.dumps(made.annotations()).replace('"id": 7', '"id": 70').replace('"image_id": 7', '"image_id": 70')
    second = made.coco(tmp_path / "b")
    (second / "annotations/instances_val.json").write_text(
        text.replace(": 20,", ": 50,").replace('"id": 1,', '"id": 8,')
    )
    one, other = (content_of(open_data(f"coco:{folder}")) for folder in (first, second))
    assert one == other


def packed_text(counts: list[int]) -> str:
    """Run lengths as COCO packs them, written down from its description."""
    letters = ""
    for place, count in enumerate(counts):
        left = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            piece, left = left & 31, left >> 5
            more = left != -1 if piece & 16 else left != 0
            letters += chr(48 + piece + 32 * more)
    return letters


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_mask_survives_cocos_packed_text(mask: np.ndarray) -> None:
    plain = encoded(mask)
    assert np.array_equal(decoded({"size": plain["size"], "counts": packed_text(plain["counts"])}), mask)


@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=8))
def test_an_outline_holds_the_pixels_whose_middle_is_in_it(corners: list[tuple[float, float]]) -> None:
    found = mask_of([[side for corner in corners for side in corner]], (9, 12))
    for y, x in np.ndindex(9, 12):
        inside = False  # a ray to the right
        for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if (y0 > y + 0.5) != (y1 > y + 0.5):
                crossing = x0 + (y + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
                assume(abs(crossing - x - 0.5) > 1e-9)
                inside ^= crossing > x + 0.5
        assert found[y, x] == inside
