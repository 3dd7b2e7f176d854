"""Labels of a model that has none: the classes of the data that it is exported with, where they are as many."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgevit.export.rows import labelled
from edgevit.models.spec import ModelSpec


@pytest.fixture
def pets(tmp_path):
    for name in ("newt", "cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "one.png")
    return f"folder:{tmp_path}"


def spec(classes: int | None, labels: tuple[str, ...] | None = None) -> ModelSpec:
    return ModelSpec("mine", "file", (8, 8), None, classes, labels=labels, notes=("first",))


def test_the_folders_names_are_the_labels_sorted_and_it_is_said(pets):
    found = labelled(spec(3), pets)
    assert found.labels == ("cat", "dog", "newt")
    assert found.notes == ("first", f"its 3 labels are the classes of {pets}, in their order")


def test_another_number_of_classes_is_said_and_gives_none(pets):
    found = labelled(spec(4), pets)
    assert found.labels is None
    assert found.notes[1] == f"it has no labels, and {pets} has 3 classes where it has 4; say --labels"


@pytest.mark.parametrize(("classes", "labels"), [(3, ("a", "b", "c")), (None, None)], ids=["labelled", "no classifier"])
def test_a_model_with_labels_and_one_without_classes_stay_as_they_are(pets, classes, labels):
    assert labelled(spec(classes, labels), pets) == spec(classes, labels)
    assert labelled(spec(3), None) == spec(3)


def test_data_without_classes_gives_none():
    assert labelled(spec(3), "samples") == spec(3)
