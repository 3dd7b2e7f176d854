from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.data.classes import aligned, class_indices, taken_in_order
from edgevit.data.labelled import LabelledData, from_arrays
from edgevit.errors import UsageError

NAMES = ("ant", "bee", "cat", "dog")


def labelled(labels: list[int], classes: tuple[str, ...] | None) -> LabelledData:
    images = [np.zeros((2, 2, 3), np.uint8)] * len(labels)
    return LabelledData("folder:here", from_arrays(images), np.asarray(labels, np.int64), classes)


@given(st.permutations(NAMES), st.permutations(NAMES), st.lists(st.integers(0, 3), max_size=9))
def test_an_image_keeps_its_class_by_name_in_whatever_order_the_two_sides_count(theirs, ours, labels) -> None:
    found = class_indices(labelled(labels, tuple(theirs)), tuple(ours), 4)
    assert [ours[index] for index in found] == [theirs[label] for label in labels]


def test_data_of_some_of_the_models_classes_is_matched_by_name() -> None:
    assert class_indices(labelled([0, 1, 1], ("dog", "bee")), NAMES, 4).tolist() == [3, 1, 1]


def test_without_a_common_name_the_classes_are_taken_in_order() -> None:
    data = labelled([2, 0], ("0", "1", "2", "3"))
    assert class_indices(data, NAMES, 4).tolist() == [2, 0]
    assert taken_in_order(data, NAMES)
    assert class_indices(labelled([3, 1], None), NAMES, 4).tolist() == [3, 1]
    assert class_indices(labelled([3, 1], ("a", "b", "c", "d")), None, 4).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("classes", "names", "count", "said"),
    [
        (("ant", "eel"), NAMES, 4, "a class 'eel' that the artifact does not know"),
        (("bee", "ant"), ("ant", "ant", "bee"), 3, "a class 'ant', which the artifact calls 2 of its classes"),
        (("0", "1", "2"), NAMES, 4, "has 3 classes, the artifact 4"),
        (None, None, 1, "has 2 classes, the artifact 1"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(classes, names, count, said) -> None:
    with pytest.raises(UsageError, match=said):
        class_indices(labelled([0, 1], classes), names, count)


def test_data_without_labels_has_no_classes() -> None:
    with pytest.raises(UsageError, match="has no labels"):
        class_indices(LabelledData("folder:here", from_arrays([])), NAMES, 4)


def test_data_of_the_same_classes_takes_the_models_order_and_other_data_stays() -> None:
    data = labelled([0, 1, 2, 3], ("dog", "cat", "bee", "ant"))
    moved = aligned(data, NAMES)
    assert (moved.classes, moved.labels.tolist()) == (NAMES, [3, 2, 1, 0])
    assert aligned(data, ("ant", "bee")) is data
    assert aligned(data, None) is data
