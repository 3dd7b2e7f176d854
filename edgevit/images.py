"""From an image file to the tensor a model wants: numpy and pillow only, so a device can do it.

``Preprocess`` is stored in every artifact, so that the device and the build host cannot disagree about it. Pillow is
imported by what decodes or resizes: a process that does neither does without its memory.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgevit.errors import EdgeVitError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000  # an 8000 × 8000 photo; more is a decompression bomb or a mistake

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
# What may be opened: other formats of Pillow's start programs (EPS runs Ghostscript) or are no photographs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
Triple = tuple[float, float, float]


class ImageError(EdgeVitError):
    """A file that is no image, is empty, broken or absurdly large."""


class Preprocess(BaseModel):
    """How an RGB image becomes the model's ``image`` input.

    resize shorter side to ``size / crop_pct`` (``crop="center"``) or both sides to ``size`` (``crop="squash"``), centre
    crop to ``size``, scale [0, 255] to [0, 1], subtract ``mean``, divide by ``std``, order as ``layout``. With
    ``baked`` the graph does all that follows the crop itself and takes uint8 NHWC.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    size: tuple[int, int] = Field(description="height and width in pixels")
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    crop: Literal["center", "squash"] = "center"
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    interpolation: Interpolation = "bicubic"
    color: Literal["RGB"] = "RGB"
    range: Literal["0-1"] = Field(default="0-1", description="range of a pixel before mean and std")
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    baked: bool = False

    def crop_pixels(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Resize and crop. (H, W, 3) uint8 -> (*size, 3) uint8; the image itself where nothing changes."""
        height, width = self.size
        if self.crop == "squash" and image.shape[:2] == self.size:
            return image
        from PIL import Image

        how = Image.Resampling[self.interpolation.upper()]
        picture = Image.fromarray(image)
        if self.crop == "squash":
            return np.asarray(picture.resize((width, height), how))
        resized = self._resized(picture.width, picture.height)
        if resized[0] * resized[1] > MAX_PIXELS:  # a strip of 1 × 100,000 pixels would be resized to gigabytes
            raise ImageError(
                f"{picture.width}×{picture.height} pixels are too long and narrow for a crop of {height}×{width}",
                hint="cut out the part that matters first",
            )
        if resized != picture.size:
            picture = picture.resize(resized, how)
        # round() halves to even, as torchvision's centre crop does
        left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
        return np.asarray(picture.crop((left, top, left + width, top + height)))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize: the shorter side becomes size / crop_pct, the other follows, rounded down
        as torchvision does; for a size that is not square, the smallest scale that covers it."""
        goal_height, goal_width = (math.floor(side / self.crop_pct) for side in self.size)
        if goal_height == goal_width:
            short = min(width, height)
            return int(goal_width * width / short), int(goal_height * height / short)
        scale = max(goal_height / height, goal_width / width)
        return max(self.size[1], round(width * scale)), max(self.size[0], round(height * scale))

    def after_crop(self) -> Preprocess:
        """For images that ``crop_pixels`` has made: a squash to the size that they have changes nothing."""
        return self.model_copy(update={"crop": "squash"})

    def normalise(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(..., 3) uint8 in [0, 255] -> (..., 3) float32, mean subtracted and divided by std."""
        unit = pixels.astype(np.float32) / np.float32(255)
        return (unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def __call__(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One row of the model's input. (H, W, 3) uint8 -> (3, *size) float32, or (*size, 3) uint8 when baked."""
        pixels = self.crop_pixels(image)
        if self.baked:
            return pixels
        normal = self.normalise(pixels)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)) if self.layout == "NCHW" else normal

    def batch(self, images: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Preprocess each image and stack them along a new first axis."""
        return np.stack([self(image) for image in images])


def shrink(image: np.ndarray[Any, Any], side: int) -> np.ndarray[Any, Any]:
    """The (H, W, 3) uint8 image with its shorter side at most ``side`` pixels, aspect ratio kept."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return image
    from PIL import Image

    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def decode(source: Path | bytes, *, name: str | None = None) -> np.ndarray[Any, Any]:
    """Pixels of a PNG, JPEG, WebP, … as (H, W, 3) uint8 RGB: EXIF rotation applied, alpha laid over white.

    Raises ImageError with one sentence for a file that is missing, empty, broken or over ``MAX_PIXELS``.
    """
    from PIL import Image, UnidentifiedImageError

    label = name or (str(source) if isinstance(source, Path) else "image")
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as exc:
        raise ImageError(f"{label}: {(exc.strerror or str(exc)).lower()}", hint="check the path") from exc
    if not data:
        raise ImageError(f"{label}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of bombs: those are our own error
            return _opened(data, label)
    except ImageError:
        raise
    except UnidentifiedImageError as exc:
        raise ImageError(f"{label}: not an image that can be read here", hint="use PNG, JPEG or WebP") from exc
    except Image.DecompressionBombError as exc:
        raise ImageError(f"{label}: too many pixels to decode safely", hint="scale it down first") from exc
    except Exception as exc:  # a broken file makes Pillow's decoders raise anything from OSError to struct.error
        said = (str(exc) or type(exc).__name__).splitlines()[0]
        raise ImageError(f"{label}: broken image ({said})", hint="is the file complete?") from exc


def able_formats() -> list[str]:
    """Those of ``FORMATS`` that Pillow can open here. The first call loads its decoders, which takes a tenth of a
    second: whoever has a deadline makes it before."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _opened(data: bytes, label: str) -> np.ndarray[Any, Any]:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=able_formats()) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            size = f"{picture.width}×{picture.height} pixels"
            raise ImageError(
                f"{label}: {size}, more than the {MAX_PIXELS // 10**6} million allowed", hint="scale it down first"
            )
        return _to_rgb(ImageOps.exif_transpose(picture))


def _to_rgb(picture: Image.Image) -> np.ndarray[Any, Any]:
    from PIL import Image

    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16-bit greyscale: plain convert() would clip, not scale
        grey = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray((grey / 257).clip(0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, rgba)
    return np.asarray(picture.convert("RGB"))
