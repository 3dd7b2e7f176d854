"""From an image file to the tensor a model wants: numpy and pillow only, so a device can do it.

``Preprocess`` is stored in every artifact, so that the device and the build host cannot disagree about it. Pillow is
imported by what decodes or resizes: a process that does neither does without its memory.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgevit.addresses import shown
from edgevit.errors import EdgeVitError, first_line
from edgevit.foreign import read_bounded
from edgevit.framing import PADDING, Crop, Framing, Place, framed
from edgevit.pixels import UnknownRange, over_white, to_pixels

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 64_000_000  # an 8000 × 8000 photo; more is a decompression bomb or a mistake

MAX_BYTES = 256 << 20  # of an encoded image
BLOCK_BYTES = 64 << 20
LARGE_PIXELS = 16_000_000  # beyond, pictures are decoded and resized one at a time: 64 million take 450 MB meanwhile

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
# What may be opened: other formats of Pillow's start programs (EPS runs Ghostscript) or are no photographs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
Color = Literal["RGB", "BGR", "GRAY", "RGBA"]
CHANNELS: dict[Color, int] = {"RGB": 3, "BGR": 3, "GRAY": 1, "RGBA": 4}
Triple = tuple[float, float, float]
Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
Positive = Annotated[float, Field(gt=0)]
Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=4)]
PadValue = Annotated[int, Field(ge=0, le=255)] | Literal["mean", "reflect"]

_ORIENTATION = 0x0112
# How the pixels of each orientation are turned upright; 1 is upright.
_UPRIGHT: dict[Any, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}


class ImageError(EdgeVitError):
    """A file that is no image, is empty, broken or absurdly large."""


class Preprocess(BaseModel):
    """How a picture becomes the model's ``image`` input.

    frame it in ``size`` (``crop``, see framing.py), order its colours as ``color``, scale [0, 255] to [0, 1], subtract
    ``mean``, divide by ``std``, order as ``layout``. With ``baked`` the graph does all that follows the colours itself
    and takes uint8 NHWC.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    size: tuple[Side, Side] = Field(description="height and width in pixels")
    mean: Channels = Field(default=(0.485, 0.456, 0.406), description="of each channel, in the order of color")
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    crop: Crop = "center"
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    interpolation: Interpolation = "bicubic"
    pad_value: PadValue = Field(default=114, description="of letterbox and pad: all channels of a pixel of 0 to 255")
    place: Place = Field(default="center", description="of letterbox and pad: where the picture lies")
    color: Color = "RGB"
    range: Literal["0-1"] = Field(default="0-1", description="range of a pixel before mean and std")
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    baked: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Preprocess:
        if self.size[0] * self.size[1] > MAX_PIXELS:
            raise ValueError(f"a size of {self.size[0]}×{self.size[1]} has more than {MAX_PIXELS:,} pixels")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{self.color} has {self.channels} channels; mean and std have one number for each")
        return self

    @property
    def channels(self) -> int:
        """Of the model's input."""
        return CHANNELS[self.color]

    @property
    def pixel_channels(self) -> int:
        """Of the pixels that it is best given, and that ``crop_pixels`` gives: 4 where transparency is looked at."""
        return 4 if self.color == "RGBA" else 3

    def at(self, size: tuple[int, int]) -> Preprocess:
        """The same for a model that sees (height, width)."""
        return self.model_copy(update={"size": (size[0], size[1])})

    def crop_pixels(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Resize, and crop or pad. (H, W, 3 or 4) uint8 -> (*size, pixel_channels) uint8; the image itself where
        nothing changes."""
        image = with_channels(image, self.pixel_channels)
        if self.crop == "squash" and image.shape[:2] == self.size:
            return image
        with _turn(image.shape[0] * image.shape[1]):
            return self._cropped(image)

    def _cropped(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        from PIL import Image

        how = self.framing(*image.shape[:2])
        (tall, wide), (height, width) = how.resized, self.size
        if tall * wide > MAX_PIXELS:  # a strip of 1 × 100,000 pixels would be resized to gigabytes
            raise ImageError(
                f"{image.shape[1]}×{image.shape[0]} pixels are too long and narrow for a crop of {height}×{width}",
                hint="cut out the part that matters first",
            )
        if how.resized != how.picture:
            picture = Image.fromarray(image).resize((wide, tall), Image.Resampling[self.interpolation.upper()])
            image = np.asarray(picture)
        if self.crop in PADDING:
            return self._padded(image, how)
        return np.ascontiguousarray(image[-how.top : height - how.top, -how.left : width - how.left])

    def _padded(self, image: np.ndarray[Any, Any], how: Framing) -> np.ndarray[Any, Any]:
        beside = [(how.top, self.size[0] - how.top - len(image)), (how.left, self.size[1] - how.left - image.shape[1])]
        if self.pad_value == "reflect":
            return np.pad(image, (*beside, (0, 0)), mode="reflect")
        made = np.empty((*self.size, image.shape[2]), np.uint8)
        made[:] = self.pad_value if isinstance(self.pad_value, int) else self._mean_pixel()
        made[how.top : how.top + len(image), how.left : how.left + image.shape[1]] = image
        return made

    def _mean_pixel(self) -> np.ndarray[Any, Any]:
        """The nearest to ``mean``, in the channels of ``crop_pixels``."""
        mean = self.mean[::-1] if self.color == "BGR" else self.mean
        return np.round(np.clip(np.array(mean), 0, 1) * 255).astype(np.uint8)

    def framing(self, height: int, width: int) -> Framing:
        """Where an image of that size lies in what the model sees."""
        return framed((height, width), self.size, self.crop, self.crop_pct, self.place)

    def window(self, height: int, width: int) -> tuple[float, float, float, float]:
        """What the model sees of an image of that size: (top, left, bottom, right), in the image's pixels."""
        return self.framing(height, width).window()

    def after_crop(self) -> Preprocess:
        """For images that ``crop_pixels`` has made: a squash to the size that they have changes nothing."""
        return self.model_copy(update={"crop": "squash"})

    def coloured(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Of ``crop_pixels``, the channels that the model takes. (..., pixel_channels) -> (..., channels) uint8."""
        if self.color == "GRAY":
            return grey(pixels)
        return np.ascontiguousarray(pixels[..., ::-1]) if self.color == "BGR" else pixels

    def normalise(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(..., channels) uint8 in [0, 255] -> (..., channels) float32, mean subtracted and divided by std."""
        unit = pixels.astype(np.float32) / np.float32(255)
        return (unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def __call__(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One row of the model's input. (H, W, 3 or 4) uint8 -> (channels, *size) float32, or (*size, channels) uint8
        when baked."""
        pixels = self.coloured(self.crop_pixels(image))
        if self.baked:
            return pixels
        normal = self.normalise(pixels)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)) if self.layout == "NCHW" else normal

    def batch(self, images: Iterable[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Preprocess each image and stack them along a new first axis; images may come one at a time."""
        return np.stack([self(image) for image in images])


def grey(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(..., 3) uint8 RGB -> (..., 1): the luma of ITU-R 601, rounded as Pillow does."""
    weighed = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)  # 65536ths
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]


def with_channels(image: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """(H, W, 3 or 4) as (H, W, count): without transparency over white, with it opaque."""
    if image.shape[2] == count:
        return image
    return over_white(image) if count == 3 else np.dstack((image, np.full(image.shape[:2], 255, np.uint8)))


def shrink(image: np.ndarray[Any, Any], side: int) -> np.ndarray[Any, Any]:
    """The (H, W, 3 or 4) uint8 image with its shorter side at most ``side`` pixels, aspect ratio kept."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return image
    from PIL import Image

    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def decode(source: Path | bytes, *, name: str | None = None, channels: int | None = 3) -> np.ndarray[Any, Any]:
    """Pixels of a PNG, JPEG, WebP, … as (H, W, 3) uint8 RGB: EXIF rotation applied, alpha laid over white; with four
    ``channels`` (H, W, 4), alpha kept; None: four where the picture has alpha.

    Raises ImageError with one sentence for a file that is missing, no file, empty, broken, over ``MAX_BYTES`` or
    ``MAX_PIXELS``, or of samples whose range is not known.
    """
    label = name or (shown(source) if isinstance(source, Path) else "image")
    data = source if isinstance(source, bytes) else read_bounded(source, MAX_BYTES, "an image", error=ImageError)
    with _in_words(label):
        return _opened(data, label, channels)


@contextmanager
def _in_words(label: str) -> Iterator[None]:
    """Whatever a decoder raises and warns of, as one ImageError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of bombs: those are our own error
            yield
    except ImageError:
        raise
    except UnknownRange as exc:
        raise ImageError(
            f"{label}: which of its values are black and white is not known: {exc}",
            hint="save it with 8 bits, or integers of 0 to 255, or floats of 0 to 1",
        ) from exc
    except Image.DecompressionBombError as exc:
        raise ImageError(f"{label}: too many pixels to decode safely", hint="scale it down first") from exc
    except MemoryError as exc:
        raise ImageError(f"{label}: no memory is left to decode it", hint="scale it down first") from exc
    except Exception as exc:  # a broken file makes Pillow's decoders raise anything from OSError to struct.error
        said = first_line(exc)
        raise ImageError(f"{label}: broken image ({said})", hint="is the file complete?") from exc


def of_pillow(picture: Image.Image, label: str, channels: int = 3) -> np.ndarray[Any, Any]:
    """The pixels of a picture that Pillow has opened or made, as ``decode`` gives those of a file; ImageError
    likewise."""
    with _in_words(label):
        return _pixels(picture, label, None, channels)


_one_large = threading.Lock()


def _turn(pixels: int) -> AbstractContextManager[Any]:
    """Held while so many are worked on."""
    return _one_large if pixels > LARGE_PIXELS else nullcontext()


def able_formats() -> list[str]:
    """Those of ``FORMATS`` that Pillow can open here. The first call loads its decoders, which takes a tenth of a
    second: whoever has a deadline makes it before."""
    from PIL import Image

    Image.init()
    # Pieces as large as the C library ever gives back: smaller ones stay with the process when a picture is freed.
    Image.core.set_block_size(BLOCK_BYTES)  # type: ignore[attr-defined]  # documented, and not in its types
    return [name for name in FORMATS if name in Image.OPEN]


def encoded_size(data: bytes) -> tuple[int, int]:
    """(width, height) that the header of an encoded image promises; nothing is allocated for it. ImageError for what is
    no image, or promises far more than ``MAX_PIXELS``."""
    with _in_words("image"), _header(data, "image") as picture:
        return picture.size


def _opened(data: bytes, label: str, channels: int | None) -> np.ndarray[Any, Any]:
    with _header(data, label) as picture:
        return _pixels(picture, label, partial(_header, data, label), channels)


def _pixels(
    picture: Image.Image, label: str, reopened: Callable[[], ImageFile] | None, channels: int | None
) -> np.ndarray[Any, Any]:
    if not 0 < picture.width * picture.height <= MAX_PIXELS:
        size = f"{picture.width}×{picture.height} pixels"
        raise ImageError(
            f"{label}: {size}, where 1 to {MAX_PIXELS // 10**6} million are allowed", hint="scale it down first"
        )
    with _turn(picture.width * picture.height):
        pixels = to_pixels(picture, reopened, channels)
    turned = picture.getexif().get(_ORIENTATION)
    return np.ascontiguousarray(_UPRIGHT[turned](pixels)) if turned in _UPRIGHT else pixels


def _header(data: bytes, label: str) -> ImageFile:
    """The picture, not decoded yet. ImageError for what is none, and what is wrong with one that only begins well."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError(f"{label}: the file is empty")
    formats = able_formats()
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as exc:
        begun = next((name for name in formats if _begins_as(name, data)), None)
        if begun is None:
            raise ImageError(f"{label}: not an image that can be read here", hint="use PNG, JPEG or WebP") from exc
        raise _broken(begun, data, label) from exc


def _begins_as(name: str, data: bytes) -> bool:
    """Whether the first bytes are those of the format. Pillow takes any text that begins with "P1" for a PPM."""
    from PIL import Image

    accepts = Image.OPEN[name][1]
    return accepts is not None and accepts(data[:16]) is True and (name != "PPM" or data[2:3].isspace())


def _broken(name: str, data: bytes, label: str) -> ImageError:
    """What is wrong with an image that begins as one of the format, in the decoder's own words."""
    from PIL import Image

    try:
        Image.OPEN[name][0](io.BytesIO(data), "")
    except Exception as exc:
        said = first_line(exc)
        if "unknown" in said or "unsupported" in said.lower():
            return ImageError(
                f"{label}: a {name} of a kind that is not read here ({said})", hint="save it as 8-bit PNG"
            )
        return ImageError(f"{label}: broken image ({name}: {said})", hint="is the file complete?")
    return ImageError(f"{label}: broken image ({name})", hint="is the file complete?")


def encoded(picture: np.ndarray[Any, Any]) -> bytes:
    """(H, W, 3) uint8 as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=3)  # a third of the time of 6 for a tenth more bytes
    return file.getvalue()
