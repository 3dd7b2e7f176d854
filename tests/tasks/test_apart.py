"""How one answer differs from another of the same image: words for every task, and a picture where there is one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edgevit.artifact.manifest import TensorSpec
from edgevit.images import Preprocess
from edgevit.tasks.base import Answer, Asked, load_task
from edgevit.tasks.palette import MARK

SIDE = 8
IMAGE = np.full((SIDE, SIDE, 3), 200, np.uint8)
STEPS = Preprocess(size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3, crop="squash")


def answer(task: str, **outputs: np.ndarray) -> Answer:
    """The answer of a task to ``IMAGE``."""
    told = load_task(task)
    kinds = {"f": "float32", "i": "int64"}
    specs = [
        TensorSpec(name=name, dtype=kinds[value.dtype.kind], shape=(1, *value.shape), role="tensor")
        for name, value in outputs.items()
    ]
    roles = told.roles(specs)
    known = tuple(spec.model_copy(update={"role": roles[spec.name]}) for spec in specs)
    return told.decode(outputs, Asked(known, (SIDE, SIDE), STEPS, labels=("a", "b", "c")))


def objects(*finds: tuple[float, int, float]) -> Mapping[str, np.ndarray]:
    """(left side, class, score): boxes of 4×4 pixels."""
    return {
        "boxes": np.array([[left, 1.0, left + 4, 5.0] for left, _, _ in finds]).reshape(-1, 4),
        "labels": np.array([label for _, label, _ in finds], np.int64),
        "scores": np.array([score for _, _, score in finds], np.float64),
    }


LABELS = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 2
OTHER = np.where(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) < 2, 2, LABELS)
PICTURE = np.full((3, SIDE, SIDE), 0.5)
BRIGHTER = PICTURE + (np.arange(SIDE) == 0) * 4 / 255
DEPTH = np.arange(1.0, SIDE * SIDE + 1).reshape(SIDE, SIDE)

CASES = {
    "classify": ({"logits": np.array([2.0, 1.0, 0.0])}, {"logits": np.array([1.0, 2.0, 0.0])},
                 "another best class: b for a"),
    "embed": ({"features": np.array([1.0, 0.0])}, {"features": np.array([0.0, 1.0])},
              "cosine 0.0000000, at most 1.0e+00 of the largest value apart"),
    "segment": ({"labels": LABELS}, {"labels": OTHER}, "labels differ at 2 of 64 pixels (3.1250%)"),
    "restore": ({"picture": PICTURE}, {"picture": BRIGHTER},
                "12.5000% of the bytes differ, by at most 4 of 255 levels"),
    "depth": ({"depth": DEPTH}, {"depth": DEPTH + 0.64 * (DEPTH == 1)},
              "at most 1.0e-02 of the largest value apart"),
    "detect": (objects((0, 0, 0.9), (4, 1, 0.5)), objects((0, 0, 0.8), (4, 2, 0.5)),
               "1 of 2 objects found by both, boxes within 0.0e+00 pixels, scores within 1.0e-01; 2 found by one "
               "alone"),
    "tensors": ({"sum": np.array([2.0])}, {"sum": np.array([1.0])}, "at most 5.0e-01 of the largest value apart"),
}  # fmt: skip
SAME = {
    "classify": "the same best class, probabilities within 0.0e+00",
    "embed": "cosine 1.0000000, at most 0.0e+00 of the largest value apart",
    "segment": "every pixel has the same label",
    "restore": "the same in every byte",
    "depth": "the same at every pixel",
    "detect": "2 of 2 objects found by both, exactly so",
    "tensors": "at most 0.0e+00 of the largest value apart",
}


@pytest.mark.parametrize("task", CASES)
def test_what_differs_is_said_and_is_farther_than_what_does_not(task: str) -> None:
    one, other, words = CASES[task]
    same = answer(task, **one).apart(answer(task, **one), IMAGE)
    apart = answer(task, **one).apart(answer(task, **other), IMAGE)
    assert (same.words, same.far) == (SAME[task], 0.0)
    assert apart.words == words
    assert apart.far > 0


@pytest.mark.parametrize("task", ["segment", "restore", "depth", "detect"])
def test_what_differs_is_seen_where_it_differs_and_nothing_else_is(task: str) -> None:
    one, other, _ = CASES[task]
    same = answer(task, **one).apart(answer(task, **one), IMAGE).picture
    picture = answer(task, **one).apart(answer(task, **other), IMAGE).picture
    assert same is not None
    assert picture is not None
    assert picture.shape == same.shape == answer(task, **one).drawn(IMAGE).shape
    assert len(np.unique(same.reshape(-1, 3), axis=0)) == 1
    changed = (picture != same).any(axis=2)
    where = np.zeros((SIDE, SIDE), bool)
    if task == "segment":
        where[0, :2] = True
        assert (picture[changed] == MARK).all()
    elif task == "restore":
        where[:, 0] = True
        assert (picture[changed] == 252).all()  # four levels, as bright as whole steps make them
    elif task == "depth":
        where[0, 0] = True
        assert (picture[changed] == 255).all()
    else:  # the outline of the box that the two call otherwise
        where[1:6, 4:8] = True
        where[2:5, 5:] = False
    assert (changed == where).all()


def test_no_object_at_all_and_one_that_is_hardly_sure_are_no_difference() -> None:
    none = answer("detect", **objects((0, 0, 0.01)))
    assert none.apart(none, IMAGE).words == "no object found by both"
    hardly = answer("detect", **objects((0, 0, 0.0501)))
    assert (none.apart(hardly, IMAGE).far, hardly.apart(none, IMAGE).far) == (0.0, 0.0)


def test_a_box_without_an_area_is_found_by_both_where_it_lies_at_the_same_place() -> None:
    flat = {"boxes": np.array([[1.0, 1, 1, 5]]), "labels": np.array([0]), "scores": np.array([0.9])}
    assert (
        answer("detect", **flat).apart(answer("detect", **flat), IMAGE).words
        == "1 of 1 objects found by both, exactly so"
    )
    moved = flat | {"boxes": np.array([[2.0, 1, 2, 5]])}
    assert "2 found by one alone" in answer("detect", **flat).apart(answer("detect", **moved), IMAGE).words


def test_of_two_finds_at_one_place_each_has_its_own_partner() -> None:
    near = objects((0, 0, 0.9), (0.1, 0, 0.8))
    assert (
        answer("detect", **near).apart(answer("detect", **near), IMAGE).words
        == "2 of 2 objects found by both, exactly so"
    )
