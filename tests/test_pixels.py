from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from picture_files import png, tiff
from PIL import Image

from edgevit.images import ImageError, decode


def grey(data: bytes) -> list[int]:
    """The first row, which must be grey."""
    pixels = decode(data)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


def float_tiff(*values: float) -> bytes:
    return tiff(len(values), 32, struct.pack(f"<{len(values)}f", *values), kind=3)


def test_a_float_tiff_from_0_to_1_is_spread_over_a_byte() -> None:
    assert grey(float_tiff(0, 0.2, 0.5, 1)) == [0, 51, 128, 255]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), -0.01, 1.01, 255.0])
def test_a_float_tiff_of_other_values_is_refused_and_not_guessed(odd: float) -> None:
    with pytest.raises(ImageError, match="which of its values are black and white is not known") as caught:
        decode(float_tiff(0.5, odd))
    assert caught.value.hint == "save it with 8 bits, or integers of 0 to 255, or floats of 0 to 1"


def test_integers_of_32_bits_are_bytes_or_refused() -> None:
    assert grey(tiff(3, 32, struct.pack("<3i", 0, 82, 255), kind=2)) == [0, 82, 255]
    assert grey(tiff(3, 32, struct.pack("<3I", 0, 82, 255))) == [0, 82, 255]
    for value in (-1, 256, 65535, 2**31 - 1):
        with pytest.raises(ImageError, match="not known: values from"):
            decode(tiff(2, 32, struct.pack("<2i", 0, value), kind=2))


def test_signed_integers_of_16_and_8_bits_are_bytes_or_refused() -> None:
    assert grey(tiff(2, 16, struct.pack("<2h", 7, 255), kind=2)) == [7, 255]
    for data in (tiff(2, 16, struct.pack("<2h", -5, 255), kind=2), tiff(2, 8, b"\x80\x7f", kind=2)):
        with pytest.raises(ImageError, match="not known"):
            decode(data)


def test_12_and_16_bits_are_spread_from_their_own_range() -> None:
    assert grey(tiff(2, 12, bytes([0xFF, 0xF0, 0x00]))) == [255, 0]
    assert grey(tiff(3, 16, struct.pack("<3H", 0, 82 * 257, 65535))) == [0, 82, 255]
    assert grey(b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 0)) == [255, 0]


@pytest.mark.parametrize(
    "data",
    [
        tiff(2, 8, bytes([0, 255]), white_is_zero=True),
        tiff(2, 16, struct.pack("<2H", 0, 65535), white_is_zero=True),
        tiff(2, 32, struct.pack("<2f", 0, 1), kind=3, white_is_zero=True),
    ],
    ids=["8 bits", "16 bits", "floats"],
)
def test_a_negative_is_turned_round_whatever_its_depth(data: bytes) -> None:
    assert grey(data) == [255, 0]


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "seen"),
    [
        (16, struct.pack(">2H", 82 * 257, 82 * 257 + 1), 82 * 257, [255, 82]),
        (8, bytes([82, 83]), 82, [255, 83]),
        (4, bytes([0x39]), 3, [255, 9 * 17]),
        (2, bytes([0b01100000]), 1, [255, 2 * 85]),
        (1, bytes([0b01000000]), 0, [255, 255]),
    ],
)
def test_transparent_grey_of_any_depth_is_white(bits: int, row: bytes, transparent: int, seen: list[int]) -> None:
    assert grey(png((2, 1), bits, 0, row, [transparent])) == seen


def test_a_transparent_colour_of_16_bits_is_that_colour_and_not_its_neighbours() -> None:
    row = struct.pack(">6H", 0x1234, 0x2233, 0x4455, 0x1235, 0x2233, 0x4455)
    assert decode(png((2, 1), 16, 2, row, [0x1234, 0x2233, 0x4455])).tolist() == [[[255] * 3, [0x12, 0x22, 0x44]]]


def test_16_bits_with_alpha_are_laid_over_white() -> None:
    assert grey(png((2, 1), 16, 4, struct.pack(">4H", 82 * 257, 65535, 82 * 257, 0))) == [82, 255]
    row = struct.pack(">8H", 0, 0x8000, 0xFFFF, 0xFFFF, 0, 0x8000, 0xFFFF, 0)
    assert decode(png((2, 1), 16, 6, row)).tolist() == [[[0, 128, 255], [255] * 3]]


def test_a_picture_of_several_strips_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 11, 4), dtype=np.uint8)
    for mode in ("RGBA", "LA", "P", "L", "CMYK", "I;16"):
        file = io.BytesIO()
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
        image.convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
        whole = decode(file.getvalue())
        monkeypatch.setattr("edgevit.pixels.STRIP", 40)
        assert (decode(file.getvalue()) == whole).all(), mode
        monkeypatch.undo()
