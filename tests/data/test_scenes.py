from __future__ import annotations

import numpy as np
import pytest

from edgevit.data.digits import digits
from edgevit.data.samples import photos
from edgevit.data.scenes import CLASSES, COUNTS, Scenes
from edgevit.data.source import check_spec, open_data
from edgevit.errors import UsageError

TRAIN, HELD_OUT = Scenes(48, "train", 0), Scenes(48, "held-out", 0)


@pytest.mark.parametrize("index", range(12))
def test_a_scene_is_its_photo_with_one_colour_pasted_over_every_digits_pixels(index: int) -> None:
    scene = TRAIN(index)
    repasted = scene.photo.copy()
    for mask in scene.masks:
        colours = np.unique(scene.image[mask], axis=0)
        assert len(colours) == 1
        repasted[mask] = colours[0]
    assert np.array_equal(repasted, scene.image)


@pytest.mark.parametrize("index", range(12))
def test_boxes_masks_and_classes_of_a_scene_say_the_same(index: int) -> None:
    scene = HELD_OUT(index)
    assert scene.masks.sum(axis=0).max() == 1
    for mask, which, box in zip(scene.masks, scene.objects.classes, scene.objects.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (scene.classes[mask] == which).all()
    assert (scene.classes > 0).sum() == scene.masks.sum()
    assert [CLASSES[which] for which in scene.objects.classes] == [str(digits().labels[one]) for one in scene.digits]


def test_the_parts_share_no_digits_picture_and_no_photo() -> None:
    assert not set(TRAIN.pictures()) & set(HELD_OUT.pictures())
    assert {one for index in range(40) for one in HELD_OUT(index).digits} <= set(HELD_OUT.pictures())
    train = [photo.tobytes() for photo in photos(held_out=False)]
    assert len(train) >= 7
    assert not {photo.tobytes() for photo in photos(held_out=True)} & set(train)


def test_photos_to_train_on_are_coloured_anew_and_those_held_out_stay_as_they_are() -> None:
    def strongest(part: Scenes) -> list[int]:
        return [int(part(index).photo.mean(axis=(0, 1)).argmax()) for index in range(60)]

    assert min(strongest(TRAIN).count(channel) for channel in range(3)) >= 10
    assert strongest(HELD_OUT).count(2) <= 1  # a cup on a red table, and a flower: blue is in neither


def test_scenes_are_the_same_each_time_and_others_for_another_seed() -> None:
    first, again, other = (open_data("scenes:32", split="train", seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.images[7], again.images[7])
    assert np.array_equal(first.targets[7], again.targets[7])
    assert not np.array_equal(first.images[7], other.images[7])


def test_all_scenes_are_those_to_train_on_and_then_those_held_out() -> None:
    whole, held = open_data("scenes"), open_data("scenes", split="held-out")
    assert (len(whole), len(held)) == (sum(COUNTS.values()), COUNTS["held-out"])
    assert np.array_equal(whole.images[COUNTS["train"] + 3], held.images[3])
    assert np.array_equal(whole.targets[COUNTS["train"] + 3], held.targets[3])
    assert (whole.images[0].shape, whole.targets[0].shape, whole.targets.kind) == ((64, 64, 3), (64, 64), "masks")


def test_scenes_tell_every_digit_apart_when_asked_for_objects() -> None:
    found = open_data("scenes:32:objects", split="held-out")
    assert found.targets.kind == "objects"
    assert found.targets[0].masks.shape[1:] == (32, 32)


@pytest.mark.parametrize("spec", ["scenes:", "scenes:big", "scenes:²", "scenes:9", "scenes:99999", "scenes:64:masks:1"])
def test_scenes_of_no_known_kind_are_refused_before_anything_is_made(spec: str) -> None:
    with pytest.raises(UsageError):
        check_spec(spec)
