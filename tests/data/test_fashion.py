"""The sample of Fashion-MNIST in the package."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.data.fashion import FOLDER
from edgevit.data.source import check_spec, has_own_split, open_data
from edgevit.errors import UnknownName


def test_the_sample_has_as_many_pictures_of_each_class_and_its_own_split() -> None:
    check_spec("fashion")
    assert has_own_split("fashion")
    for split, count in (("train", 26), ("held-out", 50)):
        found = open_data("fashion", split=split)  # type: ignore[arg-type]
        assert np.bincount(found.labels).tolist() == [count] * 10
        assert found.classes[-1] == "Ankle boot"
        assert found.images[0].shape == (28, 28, 3)
    assert len(open_data("fashion")) == 760


def test_no_picture_is_in_both_parts() -> None:
    train, held = (open_data("fashion", split=split) for split in ("train", "held-out"))
    assert not {train.images.digest(i) for i in range(len(train))} & {held.images.digest(i) for i in range(len(held))}


def test_a_name_that_is_nearly_its_name_is_told() -> None:
    with pytest.raises(UnknownName, match="fashions"):
        open_data("fashions")


def test_the_licence_lies_beside_it() -> None:
    assert "Zalando SE" in (FOLDER / "README.md").read_text()
