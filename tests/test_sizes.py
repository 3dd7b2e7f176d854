"""Sizes of images: what means one is taken, in whatever holds it, and anything else is refused in words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from edgevit.errors import UsageError
from edgevit.sizes import Sides, as_size, checked_size


@pytest.mark.parametrize(
    "value",
    [
        32, 32.0, "32", " 32 ", [32], (32, 32), [32.0, 32], np.int64(32), np.float32(32), np.array(32),
        "32x32", np.array([32, 32]), torch.tensor(32), torch.tensor([32.0]), torch.Size((32, 32)),
        [np.int8(32), torch.tensor(32)],
    ],
    ids=repr,
)  # fmt: skip
def test_what_means_a_size_is_one(value):
    assert as_size(value) == (32, 32)


@pytest.mark.parametrize("value", ["224x320", "224×320", "224X320", (224, 320), np.array([224, 320])], ids=repr)
def test_height_comes_before_width(value):
    assert as_size(value) == Sides(height=224, width=320)
    assert str(as_size(value)) == "224x320"
    assert as_size(str(as_size(value))) == (224, 320)


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 32.5, float("nan"), float("inf"), True, None, "", "x", "32x", "32x32x32", "big", "-3", 10**9, 10**400,
        "9" * 5000, (3, 224, 224), (), (32, 0), [[32, 32]], {"height": 32, "width": 32}, object, print, np.array("a"),
        np.zeros((2, 2)), torch.zeros(3, 224, 224), torch.zeros(1, device="meta"), torch.zeros(4000), 32j, b"32",
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_what_means_none_is_refused_in_one_short_sentence(value):
    with pytest.raises(UsageError, match=r"^image_size of net must be 1 or more pixels") as caught:
        as_size(value, "image_size of net")
    assert len(str(caught.value)) < 140
    assert "224x320" in caught.value.hint


def test_a_size_that_does_not_divide_is_answered_with_the_nearest_that_does():
    assert checked_size("m", (32, 64), 32) == (32, 64)
    with pytest.raises(UsageError, match="divisible by 32, not 30×100") as caught:
        checked_size("m", (30, 100), 32)
    assert caught.value.hint == "use --image-size 32x96"
    with pytest.raises(UsageError) as caught:
        checked_size("m", 5, 32)
    assert caught.value.hint == "use --image-size 32"


def test_sizes_are_read_without_torch():
    code = "import sys; from edgevit.sizes import as_size; as_size('3x4'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
