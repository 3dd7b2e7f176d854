"""Pictures that keep their shape: letterboxed or padded, and the way back to their own coordinates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgevit.framing import framed
from edgevit.images import Preprocess

SIDES = st.integers(1, 40)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(SIDES, SIDES, st.sampled_from(["letterbox", "pad", "squash"]), st.sampled_from(["center", "top-left"]))
def test_a_point_comes_back_within_half_a_pixel(height: int, width: int, crop: str, place: str) -> None:
    steps = Preprocess.model_validate_json(
        f'{{"size": [24, 16], "crop": "{crop}", "place": "{place}", "interpolation": "nearest"}}'
    )
    rows, columns = np.mgrid[:height, :width]
    seen = steps.crop_pixels(np.stack([rows, columns, rows], -1).astype(np.uint8))
    window, shown = steps.window(height, width), steps.framing(height, width).shown()
    for axis, side in enumerate(steps.size):
        first, last = shown[axis], shown[axis + 2]
        begin, end = window[axis], window[axis + 2]
        along = np.moveaxis(seen, axis, 0)[first:last, shown[1 - axis], axis]
        back = begin + (np.arange(first, last) + 0.5) / side * (end - begin)
        assert np.abs(along + 0.5 - back).max() <= 0.5 + 1e-9


@given(SIDES, SIDES, st.sampled_from(["center", "top-left"]))
def test_a_letterbox_shows_the_whole_picture_as_large_as_it_fits(height: int, width: int, place: str) -> None:
    how = framed((height, width), (24, 16), "letterbox", 1.0, place)
    top, left, bottom, right = how.shown()
    assert (bottom - top, right - left) == how.resized
    assert bottom - top == 24 or right - left == 16
    assert abs((bottom - top) * width / height - (right - left)) <= max(1, width / height)
    if place == "top-left":
        assert (top, left) == (0, 0)
    else:
        assert 0 <= (24 - bottom) - top <= 1
        assert 0 <= (16 - right) - left <= 1


def test_a_letterbox_is_the_resized_picture_in_grey() -> None:
    image = photo(30, 60)
    seen = Preprocess(size=(16, 16), crop="letterbox", interpolation="bilinear").crop_pixels(image)
    expected = np.full((16, 16, 3), 114, np.uint8)
    expected[4:12] = np.asarray(Image.fromarray(image).resize((16, 8), Image.Resampling.BILINEAR))
    assert (seen == expected).all()


def test_what_fits_keeps_its_pixels_and_what_does_not_is_scaled_down() -> None:
    image = photo(5, 7)
    steps = Preprocess(size=(8, 8), crop="pad", pad_value="reflect", place="top-left")
    assert (steps.crop_pixels(image) == np.pad(image, ((0, 3), (0, 1), (0, 0)), mode="reflect")).all()
    assert steps.framing(16, 8).shown() == (0, 0, 8, 4)
    one = steps.crop_pixels(photo(1, 1))
    assert (one == photo(1, 1)[0, 0]).all()


@pytest.mark.parametrize(
    ("color", "mean", "filled"),
    [("RGB", (0.2, 0.4, 0.6), (51, 102, 153)), ("BGR", (0.6, 0.4, 0.2), (51, 102, 153)), ("GRAY", (0.4,), (102,) * 3)],
)
def test_the_mean_is_a_pixel_of_the_colours_that_the_model_takes(color: str, mean: tuple, filled: tuple) -> None:
    steps = Preprocess(
        size=(4, 4), mean=mean, std=(1.0,) * len(mean), crop="pad", pad_value="mean", place="top-left", color=color
    )
    assert steps.crop_pixels(photo(2, 2))[3, 3].tolist() == list(filled)
    assert np.abs(steps(photo(2, 2))[:, 3, 3]).max() < 1e-6


def test_an_older_artifact_means_what_it_meant() -> None:
    old = (
        '{"size": [8, 8], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "crop": "center", "crop_pct": 0.9, '
        '"interpolation": "bilinear", "color": "RGB", "range": "0-1", "layout": "NCHW", "baked": false}'
    )
    same = Preprocess(
        size=(8, 8), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), crop_pct=0.9, interpolation="bilinear", color="RGB"
    )
    assert Preprocess.model_validate_json(old) == same
