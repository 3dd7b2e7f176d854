from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_files import chunk, png, tiff
from PIL import Image

from edgevit.images import ImageError, Preprocess, decode, encoded_size, shrink

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
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


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
    with pytest.raises(ImageError, match="a folder, not an image"):
        decode(tmp_path)


def photo(width: int, height: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows % 256, columns % 256, (rows * columns // 7) % 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), [(301, 233), (233, 301), (224, 224), (100, 640), (30, 20)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_centre_crop_is_what_timm_evaluates_with(width: int, height: int, crop_pct: float, interpolation: str) -> None:
    from edgevit.models.loading.source import import_timm

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


def test_grey_is_what_pillow_makes_of_it_and_blue_may_come_first() -> None:
    image = photo(9, 7)
    plain = {"size": (7, 9), "crop": "squash", "baked": True}
    grey = Preprocess(**plain, color="GRAY", mean=(0.5,), std=(0.5,))(np.ascontiguousarray(image))
    assert (grey[..., 0] == np.asarray(Image.fromarray(image).convert("L"))).all()
    assert (Preprocess(**plain, color="BGR")(image) == image[..., ::-1]).all()


def test_mean_and_std_are_in_the_order_of_the_colours() -> None:
    image = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    rgb = Preprocess(size=(4, 4), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))(image)
    bgr = Preprocess(size=(4, 4), mean=(0.3, 0.2, 0.1), std=(4.0, 2.0, 1.0), color="BGR")(image)
    assert (rgb[::-1] == bgr).all()


def test_alpha_is_kept_where_the_model_takes_it_and_laid_over_white_where_not(tmp_path: Path) -> None:
    image = np.dstack((photo(4, 4), np.full((4, 4), 128, np.uint8)))
    file = saved(Image.fromarray(image), tmp_path / "x.png")
    look = {"size": (4, 4), "crop": "squash", "baked": True}
    rgba = Preprocess(**look, color="RGBA", mean=(0.5,) * 4, std=(0.5,) * 4)
    assert (decode(file, channels=4) == image).all()
    assert (rgba(decode(file, channels=rgba.pixel_channels)) == image).all()
    assert (Preprocess(**look)(image) == decode(file)).all()
    assert (rgba(photo(4, 4))[..., 3] == 255).all()


def test_the_transparent_colour_of_a_palette_is_transparent(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert decode(saved(image, tmp_path / "x.png", transparency=0), channels=4).tolist() == [[[0, 0, 0, 0]] * 2] * 2


def test_numbers_for_other_channels_than_the_colours_have_are_refused() -> None:
    with pytest.raises(ValueError, match="GRAY has 1 channels; mean and std have one number for each"):
        Preprocess(size=(4, 4), color="GRAY")


def test_a_size_that_is_not_square_is_covered_as_timm_does() -> None:
    from edgevit.models.loading.source import import_timm

    import_timm()
    from timm.data import create_transform

    for width, height in ((301, 233), (120, 400), (500, 90)):
        transform = create_transform((3, 96, 160), interpolation="bilinear", crop_pct=0.9)
        expected = transform(Image.fromarray(photo(width, height))).numpy()
        steps = Preprocess(size=(96, 160), crop_pct=0.9, interpolation="bilinear")
        assert np.abs(steps(photo(width, height)) - expected).max() < 1e-5


def test_a_strip_that_a_resize_would_blow_up_is_refused() -> None:
    with pytest.raises(ImageError, match="1×200000 pixels are too long and narrow"):
        Preprocess(size=(224, 224))(np.zeros((200_000, 1, 3), np.uint8))


def test_a_format_that_runs_programs_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "x.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="not an image that can be read here"):
        decode(tmp_path / "x.eps")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(photo(12, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    moved = {
        1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"],
        6: ["ROTATE_270"], 7: ["TRANSVERSE"], 8: ["ROTATE_90"],
    }  # fmt: skip
    expected = image
    for step in moved[orientation]:
        expected = expected.transpose(Image.Transpose[step])
    assert (decode(saved(image, tmp_path / "x.png", exif=exif)) == np.asarray(expected)).all()


def refusal(source: Path | bytes) -> str | None:
    """Why an image is not read, or None for (H, W, 3) pixels. Any other error ends the test."""
    try:
        pixels = decode(source)
    except ImageError as error:
        return str(error)
    return None if pixels.ndim == 3 and pixels.shape[2] == 3 else "another shape"


def test_damaged_metadata_never_escapes_as_another_error(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(photo(16, 16)).save(stream, "JPEG", exif=exif)
    whole = stream.getvalue()
    for position in range(2, 120, 3):
        (tmp_path / "x.jpg").write_bytes(whole[:position] + b"\xff" + whole[position + 1 :])
        said = refusal(tmp_path / "x.jpg")
        assert said is None or ("x.jpg" in said and "\n" not in said)


def test_every_truncation_of_a_photo_is_one_sentence(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        stream = io.BytesIO()
        Image.fromarray(photo(40, 40)).save(stream, kind)
        whole = stream.getvalue()
        for share in (0.02, 0.3, 0.6, 0.9):
            said = refusal(whole[: max(1, int(len(whole) * share))])
            assert said is None or said.startswith("image: ")


@pytest.mark.parametrize(
    ("size", "expected"), [((40, 30), (40, 30, 3)), ((100, 400), (50, 200, 3)), ((60, 50), (60, 50, 3))]
)
def test_shrinking_keeps_the_aspect_ratio_and_never_enlarges(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert shrink(photo(size[1], size[0]), 50).shape == expected


def damaged(at: bytes, offset: int = 0) -> bytes:
    """A PNG with one bit flipped, ``offset`` bytes after the name of the chunk ``at``."""
    whole = bytearray(png((8, 8), 8, 0, bytes(range(8))))
    whole[whole.index(at) + offset] ^= 1
    return bytes(whole)


@pytest.mark.parametrize(
    "data", [damaged(b"IHDR", 4), damaged(b"IHDR"), damaged(b"IDAT"), damaged(b"IDAT", 6), damaged(b"IDAT", 12)]
)
def test_a_damaged_png_is_damaged_and_not_something_else(data: bytes) -> None:
    with pytest.raises(ImageError, match="image: broken image") as caught:
        decode(data)
    assert caught.value.hint == "is the file complete?"


def test_a_kind_of_tiff_that_is_not_read_says_so() -> None:
    with pytest.raises(ImageError, match="a TIFF of a kind that is not read here") as caught:
        decode(tiff(2, 64, struct.pack("<2d", 0, 1), kind=3))
    assert caught.value.hint == "save it as 8-bit PNG"


@pytest.mark.parametrize("text", [b"P1ease read me", b"Python", b"<html>", b"BMW", b"GIF"])
def test_a_text_that_begins_like_an_image_is_no_image(text: bytes) -> None:
    with pytest.raises(ImageError, match=r"not an image that can be read here|broken image"):
        decode(text)


@pytest.mark.parametrize(
    ("given", "shown", "next_step"),
    [
        ("https://host/x.png", "https://host/x.png", "download it first: curl -O https://host/x.png"),
        (
            "https://host/x.png?a=1&b",
            "https://host/x.png?a=1&b",
            "download it first: curl -O 'https://host/x.png?a=1&b'",
        ),
        ("s3://bucket/a/x.png", "s3://bucket/a/x.png", "download it first: aws s3 cp s3://bucket/a/x.png ."),
        ("rtsp://cam/1", "rtsp://cam/1", "record a part of it first: ffmpeg -i rtsp://cam/1 -t 10 clip.mp4"),
        ("file:///tmp/none.png", "file:///tmp/none.png", "name the file by its path alone"),
        (
            "data:image/png;base64," + "A" * 5000,
            "data:image/png;base64,AAAAAAAAAAAAAAAAAA…",
            "download it first, and name the file",
        ),
    ],
    ids=["https", "query", "s3", "rtsp", "file", "data"],
)
def test_an_address_keeps_its_slashes_and_is_told_to_be_downloaded(given: str, shown: str, next_step: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(Path(given))
    assert str(caught.value) == f"{shown}: an address, not a file"
    assert caught.value.hint == next_step


def test_a_device_a_pipe_and_an_endless_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "big.png").touch()
    os.truncate(tmp_path / "big.png", 6 << 30)
    for path, said in (
        (Path("/dev/zero"), "a device, not an image"),
        (tmp_path / "pipe.png", "a named pipe, not an image"),
        (tmp_path / "big.png", "6,442,450,944 bytes, more than the 268,435,456 that an image may have"),
    ):
        with pytest.raises(ImageError) as caught:
            decode(path)
        assert str(caught.value) == f"{path}: {said}"


def test_the_size_in_the_header_is_known_without_decoding() -> None:
    assert encoded_size(png((7999, 5), 8, 2, bytes(3 * 7999))) == (7999, 5)
    with pytest.raises(ImageError, match="too many pixels"):
        encoded_size(bomb())
    with pytest.raises(ImageError, match="the file is empty"):
        encoded_size(b"")


MEMORY = """
import resource, sys, threading
from edgevit.images import Preprocess, decode
data = open(sys.argv[1], "rb").read()
def answer():
    Preprocess(size=(32, 32))(decode(data))
def kept():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
before = kept()
threads = [threading.Thread(target=answer) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))  # of this program alone
print(int(peak.split()[1]) >> 10, kept() - before)
"""


def test_large_pictures_take_turns_and_leave_no_memory_behind(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png((7999, 7999), 8, 2, bytes(3 * 7999)))
    ran = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "x.png"], capture_output=True, text=True, check=True)
    peak, kept = map(int, ran.stdout.split())
    assert peak < 900  # MB; two at once took 2,200
    assert kept < 100
