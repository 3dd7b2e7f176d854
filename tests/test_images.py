from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.images import ImageError, Preprocess, decode

RED = (250, 10, 20)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "1", "LA"])
def test_every_mode_becomes_rgb_bytes(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    pixels = decode(saved(Image.new("RGB", (7, 5), RED).convert(mode), tmp_path / f"x.{suffix}"))
    assert pixels.shape == (5, 7, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
def test_a_colour_survives_the_usual_formats(tmp_path: Path, suffix: str) -> None:
    pixels = decode(saved(Image.new("RGB", (16, 16), RED), tmp_path / f"x.{suffix}"))
    assert np.abs(pixels.astype(int) - RED).max() <= 12


def test_a_cmyk_jpeg_keeps_its_colour(tmp_path: Path) -> None:
    pixels = decode(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "x.jpg"))
    assert pixels[8, 8, 0] > 200
    assert pixels[8, 8, 1] < 60


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 5, 10))  # the left edge
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 90° clockwise to show
    pixels = decode(saved(image, tmp_path / "x.png", exif=exif))
    assert pixels.shape == (20, 10, 3)
    assert pixels[0].min() == 255
    assert pixels[-1].max() == 0


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    assert decode(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), tmp_path / "x.png")).min() == 255
    half = decode(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), tmp_path / "y.png"))
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def test_a_transparent_palette_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert decode(saved(image, tmp_path / "x.png", transparency=0)).min() == 255


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    pixels = decode(saved(Image.fromarray(ramp), tmp_path / "x.png"))
    assert np.abs(pixels[..., 0].astype(int) - np.round(ramp / 257)).max() <= 1


def bomb() -> bytes:
    """A valid PNG header that promises 60000 × 60000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def truncated() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(stream, "PNG")
    return stream.getvalue()[:700]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (b"hello, I am text", "not an image"),
        (truncated(), "broken image"),
        (bomb(), "pixels"),
    ],
    ids=["empty", "text", "truncated", "bomb"],
)
def test_a_bad_file_is_one_sentence_with_its_name(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(ImageError, match=sentence) as caught:
        decode(tmp_path / "bad.png")
    assert "bad.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a directory"):
        decode(tmp_path)


def photo(width: int, height: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows % 256, columns % 256, (rows * columns // 7) % 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), [(301, 233), (233, 301), (224, 224), (100, 640), (30, 20)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_centre_crop_is_what_timm_evaluates_with(width: int, height: int, crop_pct: float, interpolation: str) -> None:
    from edgevit.models.source import import_timm

    import_timm()
    from timm.data import create_transform

    transform = create_transform((3, 224, 224), interpolation=interpolation, crop_pct=crop_pct)
    expected = transform(Image.fromarray(photo(width, height))).numpy()
    steps = Preprocess(size=(224, 224), crop_pct=crop_pct, interpolation=interpolation)
    assert np.abs(steps(photo(width, height)) - expected).max() < 1e-5


def test_squash_ignores_the_aspect_ratio() -> None:
    steps = Preprocess(size=(8, 12), crop="squash", interpolation="bilinear")
    expected = np.asarray(Image.fromarray(photo(40, 30)).resize((12, 8), Image.Resampling.BILINEAR))
    assert (steps.crop_pixels(photo(40, 30)) == expected).all()


def test_mean_and_std_are_applied_per_channel_in_either_layout() -> None:
    look = {"size": (4, 4), "mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0), "crop": "squash"}
    image = np.full((4, 4, 3), 255, np.uint8)
    expected = [(1 - 0.1) / 0.5, (1 - 0.2) / 1.0, (1 - 0.3) / 2.0]
    assert Preprocess(**look)(image)[:, 0, 0] == pytest.approx(expected)
    assert Preprocess(**look, layout="NHWC")(image)[0, 0] == pytest.approx(expected)


def test_a_baked_graph_gets_the_cropped_bytes() -> None:
    steps = Preprocess(size=(4, 4), crop="squash", baked=True)
    row = steps(photo(4, 4))
    assert row.dtype == np.uint8
    assert (row == photo(4, 4)).all()
