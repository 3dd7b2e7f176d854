"""Answers in words, JSON and pictures, and places back in the image that was asked about."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgevit import registry
from edgevit.artifact.manifest import TensorSpec
from edgevit.data.rle import decoded, encoded
from edgevit.errors import Unsupported
from edgevit.images import Preprocess
from edgevit.steps import Steps
from edgevit.tasks.base import Asked, load_task
from edgevit.tasks.palette import colour
from edgevit.tasks.places import back_to_image, boxes_in_image

SQUASH = Preprocess(size=(8, 8), crop="squash")
IMAGE = np.full((16, 32, 3), 200, np.uint8)


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": (1, *shape), "role": "tensor"})


def asked(task: str, *outputs: TensorSpec, **more) -> Asked:
    roles = load_task(task).roles(outputs)
    named = tuple(one.model_copy(update={"role": roles[one.name]}) for one in outputs)
    return Asked(named, **{"size": (16, 32), "steps": SQUASH, **more})


@pytest.mark.parametrize("name", sorted(registry.rows("task")))
def test_every_task_refuses_what_it_cannot_be_or_takes_it(name: str) -> None:
    odd = [spec("odd", 2, 3, 4, 5, 6, dtype="bool")]
    task = load_task(name)
    assert task.name == name
    if name == "tensors":
        assert task.roles(odd) == {"odd": "tensor"}
        return
    with pytest.raises(Unsupported, match=r"odd bool 1×2×3×4×5×6"):
        task.roles(odd)


def test_a_classifier_names_the_likeliest_first() -> None:
    about = asked("classify", spec("logits", 3), labels=("ant", "bee", "cat"), top=2)
    answer = load_task("classify").decode({"logits": np.log([0.2, 0.7, 0.1])}, about)
    assert answer.words() == "bee 70.0%, ant 20.0%"
    assert [guess["index"] for guess in answer.record()["top"]] == [1, 0]
    assert answer.drawn(IMAGE) is None


def test_a_map_of_classes_goes_back_to_the_size_of_the_image() -> None:
    scores = np.zeros((2, 8, 8), np.float32)
    scores[1, :, 4:] = 1.0
    about = asked("segment", spec("masks", 2, 8, 8), labels=("sky", "sea"))
    answer = load_task("segment").decode({"masks": scores}, about)
    assert answer.words() == "sky 50.0%, sea 50.0%"
    found = answer.record()
    assert found["size"] == [16, 32]
    sea = next(one for one in found["segments"] if one["label"] == "sea")
    assert decoded(sea["mask"])[:, 16:].all()
    assert not decoded(sea["mask"])[:, :16].any()
    json.dumps(found)
    picture = answer.drawn(IMAGE)
    assert picture is not None
    assert (picture.shape, picture.dtype) == ((16, 32, 3), np.uint8)
    assert (picture[0, 0] != picture[0, 31]).any()


def test_what_a_centre_crop_left_out_has_no_class_and_keeps_its_pixels() -> None:
    steps = Preprocess(size=(8, 8), crop="center", crop_pct=1.0)
    about = asked("segment", spec("masks", 8, 8, dtype="int64"), steps=steps)
    answer = load_task("segment").decode({"masks": np.ones((8, 8), np.int64)}, about)
    drawn = answer.drawn(IMAGE)
    assert answer.record()["segments"][0]["share"] == 0.5
    assert drawn is not None
    assert (drawn[:, :8] == IMAGE[:, :8]).all()
    assert (drawn[:, 24:] == IMAGE[:, 24:]).all()
    assert (drawn[:, 8:24] != IMAGE[:, 8:24]).any()


def test_boxes_of_a_detector_are_in_the_pixels_of_the_image() -> None:
    outputs = spec("boxes", 2, 4), spec("scores", 2), spec("labels", 2, dtype="int64")
    about = asked("detect", *outputs, labels=("cup", "pen"))
    row = {
        "boxes": np.array([[0, 0, 4, 8], [2, 2, 100, 8]], np.float32),
        "scores": np.array([0.4, 0.9], np.float32),
        "labels": np.array([0, 1]),
    }
    answer = load_task("detect").decode(row, about)
    assert answer.words() == "pen 90.0% at 8 4 32 16, cup 40.0% at 0 0 16 16"
    drawn = answer.drawn(IMAGE)
    assert drawn is not None
    assert tuple(drawn[4, 20]) == colour(1)


def test_detrs_own_outputs_are_boxes_too() -> None:
    about = asked("detect", spec("pred_logits", 2, 3), spec("pred_boxes", 2, 4))
    row = {
        "pred_logits": np.array([[9.0, 0, 0], [0, 0, 9.0]], np.float32),
        "pred_boxes": np.array([[0.5, 0.5, 0.5, 1.0], [0.1] * 4], np.float32),
    }
    record = load_task("detect").decode(row, about).record()
    assert [found["label"] for found in record["objects"]] == ["0"]
    assert record["objects"][0]["box"] == pytest.approx([8, 0, 24, 16])


def test_a_restored_picture_is_cut_to_what_pixels_can_be() -> None:
    about = asked("restore", spec("picture", 3, 4, 4))
    answer = load_task("restore").decode({"picture": np.linspace(-0.5, 1.5, 48).reshape(3, 4, 4)}, about)
    drawn = answer.drawn(IMAGE)
    assert drawn is not None
    assert (drawn.shape, drawn.min(), drawn.max()) == ((4, 4, 3), 0, 255)
    assert answer.record() == {"size": [4, 4]}


def test_a_depth_is_drawn_in_the_size_of_the_image() -> None:
    about = asked("depth", spec("depth", 1, 8, 8))
    answer = load_task("depth").decode({"depth": np.arange(64, dtype=np.float32).reshape(1, 8, 8)}, about)
    drawn = answer.drawn(IMAGE)
    assert answer.words() == "from 0 to 63, the median 31.5"
    assert drawn is not None
    assert drawn.shape == (16, 32, 3)
    assert drawn[0, 0, 0] < drawn[-1, -1, 0]


def test_an_embedding_is_the_mean_of_a_map_and_the_vector_itself() -> None:
    task = load_task("embed")
    vector = task.decode({"features": np.array([3.0, 4.0])}, asked("embed", spec("features", 2)))
    assert vector.words() == "2 numbers of length 5: 3 4"
    maps = task.decode({"features": np.ones((4, 2, 2))}, asked("embed", spec("features", 4, 2, 2)))
    assert maps.record()["embedding"] == [1.0] * 4


def test_numbers_that_mean_nothing_known_are_shown_in_figures() -> None:
    answer = load_task("tensors").decode({"x": np.array([[1.0, 3.0]])}, asked("tensors", spec("x", 1, 2)))
    assert answer.words() == "x 1×2 from 1 to 3"
    assert answer.record()["outputs"]["x"]["mean"] == 2.0


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_mask_survives_its_run_lengths(mask: np.ndarray) -> None:
    record = encoded(mask)
    assert sum(record["counts"]) == mask.size
    assert np.array_equal(decoded(json.loads(json.dumps(record))), mask)


@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from(["center", "squash"]), st.floats(0.5, 1.0))
def test_the_window_is_what_the_model_sees(height: int, width: int, crop: str, share: float) -> None:
    steps = Preprocess.model_validate({"size": (8, 8), "crop": crop, "crop_pct": share, "interpolation": "nearest"})
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 6, columns * 6, rows * 0], -1).astype(np.uint8)
    seen = steps.crop_pixels(image).astype(float) / 6
    top, left, bottom, right = steps.window(height, width)
    middle = (np.arange(8) + 0.5) / 8
    # a nearest pixel lies within one of where the window says it is
    assert np.abs(seen[:, 0, 0] + 0.5 - (top + middle * (bottom - top))).max() <= 1.01
    assert np.abs(seen[0, :, 1] + 0.5 - (left + middle * (right - left))).max() <= 1.01


def test_a_box_over_all_that_was_seen_is_the_window() -> None:
    steps = Preprocess(size=(8, 8), crop="center", crop_pct=1.0)
    about = asked("detect", spec("boxes", 1, 4), spec("logits", 1, 2), steps=steps)
    assert boxes_in_image(np.array([[0, 0, 8, 8]]), about, unit=False).tolist() == [[8, 0, 24, 16]]
    assert back_to_image(np.ones((2, 2), int), about, outside=-1).sum() == 16 * 16 - 16 * 16


@pytest.mark.parametrize(
    ("said", "values"),
    [({"range": "0-1"}, [0, 0.5, 1]), ({"range": "0-255"}, [0, 127.5, 255]), ({"range": "-1-1"}, [-1, 0, 1])],
    ids=["0-1", "0-255", "-1-1"],
)
def test_a_restored_picture_is_of_the_range_and_the_colours_that_the_model_takes(said: dict, values: list) -> None:
    steps = Steps(crop="pad", color="BGR", **said).onto(None, (4, 4))[0]
    about = asked("restore", spec("picture", 3, 8, 8), steps=steps, size=(3, 2))
    picture = np.broadcast_to(np.array(values)[:, None, None], (3, 8, 8))
    made = load_task("restore").decode({"picture": picture}, about).picture
    assert made.shape == (6, 4, 3)  # twice the image, without what it was padded with
    assert made[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("nothing", ["background", "__background__", "Void", "unlabeled"])
def test_what_is_no_class_of_anything_is_not_coloured(nothing: str) -> None:
    labels = np.zeros((1, 16, 32), np.int64)
    labels[:, :, 16:] = 1
    spec = TensorSpec(name="masks", dtype="int64", shape=(1, 16, 32), role="tensor")
    drawn = {}
    for names in ((nothing, "cat"), ("sky", "cat")):
        told = asked("segment", spec, labels=names, steps=SQUASH.at((16, 32)))
        drawn[names[0]] = load_task("segment").decode({"masks": labels}, told).drawn(IMAGE)
    assert (drawn[nothing][:, :16] == IMAGE[:, :16]).all()
    assert (drawn["sky"][:, :16] != IMAGE[:, :16]).any()
    assert (drawn[nothing][:, 16:] == drawn["sky"][:, 16:]).all()
