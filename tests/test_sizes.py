"""Sizes of images: what means one is taken, in whatever holds it, and anything else is refused in words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from edgevit.errors import UsageError
from edgevit.sizes import Sides, as_size, as_sizes, checked_size


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


@pytest.mark.parametrize(
    ("text", "ends", "odd"),
    [
        ("128-512/32", ((128, 128), (512, 512)), (288, 416)),
        ("128-512x256-1024/32", ((128, 256), (512, 1024)), (288, 800)),
        ("384x128-512/32", ((384, 128), (384, 512)), (384, 352)),
        ("32-64/32", ((32, 32), (64, 64)), (32, 64)),
        ("10-20", ((10, 10), (20, 20)), (15, 17)),
    ],
)
def test_a_range_has_two_ends_and_a_size_between_them_that_is_not_square(text, ends, odd):
    found = as_sizes(text)
    assert (found.lowest, found.highest) == ends
    assert found.odd == odd
    assert as_sizes(str(found)) == found


@pytest.mark.parametrize("text", ["224", "224x320", "224-224", "64-64x96-96/32"])
def test_a_range_of_one_size_is_that_size(text):
    assert isinstance(as_sizes(text), Sides)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("512-128/32", "holds none: its end is below its beginning", "128-512?"),
        ("128-512/0", "cannot go in steps of 0 pixels", "1 or more, such as 128-512/32"),
        ("130-512/32", "ends at 130, which is no multiple of 32", "for example 160-512/32"),
        ("33-40/32", "ends at 33, which is no multiple of 32", "use a smaller multiple, or a wider range"),
        ("128-99999/32", "must be 1 to 16384 pixels a side", "for example 128-512/32"),
        ("128-512/-3", "is no range of sizes", "write LOW-HIGH/MULTIPLE"),
        ("128-x256/32", "is no range of sizes", "write LOW-HIGH/MULTIPLE"),
        ("1x2x3-4", "is no range of sizes", "write LOW-HIGH/MULTIPLE"),
    ],
)
def test_what_is_no_range_is_refused_with_what_would_be(text, said, hint):
    with pytest.raises(UsageError, match=said) as caught:
        as_sizes(text)
    assert caught.value.hint.startswith(hint)


def test_a_range_knows_what_it_takes_and_what_holds_a_picture():
    found = as_sizes("128-512x256-1024/32")
    assert all(size in found for size in ((128, 256), (512, 1024), (160, 256)))
    assert not any(size in found for size in ((130, 256), (96, 256), (128, 1056)))
    assert found.nearest((140, 2000)) == (128, 1024)
    assert found.holding((140, 300)) == (160, 320)
    with pytest.raises(UsageError, match="net takes images of 128-512x256-1024/32, not 64") as caught:
        found.require((64, 64), "net")
    assert caught.value.hint == "the nearest is 128x256"


@pytest.mark.parametrize(
    ("text", "crossed"),
    [
        ("128-512/32", "448x160"),
        ("32-64/8", "48x56"),
        ("32-64/32", "64x32"),
        ("384x128-512/32", "384"),
        ("128-512", "339x159"),
    ],
)
def test_a_size_across_lies_the_other_way_and_leaves_other_remainders(text, crossed):
    found = as_sizes(text)
    assert str(found.crossed) == crossed
    assert found.crossed in found
    assert found.crossed in found.to_prove((1, 1))
