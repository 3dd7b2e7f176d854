"""From what Pillow decodes to RGB or RGBA bytes: every depth, sign and kind of transparency.

Pillow's own ``convert`` clips what is deeper than 8 bits, forgets which 16-bit value is transparent, and does not
turn a 16-bit negative round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

Pixels = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]

STRIP = 1 << 20  # pixels that are converted at a time: all at once would take four more copies of a large picture
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339  # tags of a TIFF
_SIGNED = 2
_SPREAD = {"1": 255, "L;2": 85, "L;4": 17}  # Pillow spreads grey of few bits over a byte, and not its transparent value


class UnknownRange(ValueError):
    """Which values are black and white is not known."""


def to_pixels(picture: Image.Image, reopened: Callable[[], ImageFile] | None, channels: int | None = 3) -> Pixels:
    """(H, W, 3) uint8, what is transparent laid over white; with four ``channels`` (H, W, 4), alpha kept; None: four
    where something may be transparent. ``reopened`` gives the same picture, not yet loaded; None for one that is no
    file's any more.

    Integers of 16 bits and less are spread from their full range; deeper ones must lie in 0..255 and floats in 0..1.
    UnknownRange where they do not.
    """
    if channels is None:
        channels = 4 if _transparent(picture) else 3
    convert = partial(_converter(picture, reopened), channels=channels)
    picture.load()
    width, height = picture.size
    made = np.empty((height, width, channels), np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        made[top : box[3]] = convert(box)
    return made


def _converter(picture: Image.Image, reopened: Callable[[], ImageFile] | None) -> Callable[..., Pixels]:
    """What makes bytes of a part of the picture."""
    tiles: Any = getattr(picture, "tile", ())
    stored = str(tiles[0].args) if tiles else ""  # how a PNG holds its samples
    tags: Any = getattr(picture, "tag_v2", {})
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and picture.mode not in _DEEP:
        raise UnknownRange("signed integers of 8 bits")
    key = picture.info.get("transparency")
    if picture.mode in _DEEP:
        return partial(_of_deep, picture, white=_white(picture, tags), inverted=tags.get(_PHOTOMETRIC) == 0, key=key)
    if stored == "RGB;16B" and isinstance(key, tuple) and reopened is not None:
        del picture.info["transparency"]
        low = reopened()
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the other byte of each sample
        return partial(_of_deep_colour, picture, low, key=key)
    if stored in _SPREAD and isinstance(key, int):
        picture.info["transparency"] = key * _SPREAD[stored]
    return partial(_of_bytes, picture)


def _white(picture: Image.Image, tags: Any) -> int:
    """The value that is white, black being 0."""
    if picture.mode == "F":
        return 1
    if picture.mode == "I" and picture.format != "PPM":  # whose decoder makes 16 bits of any depth
        return 255
    return 4095 if 12 in tags.get(_BITS, ()) else 65535


def _of_deep(picture: Image.Image, box: Box, *, white: int, inverted: bool, key: Any, channels: int) -> Pixels:
    samples = np.asarray(picture.crop(box)).astype(np.float64)
    low, high = float(samples.min()), float(samples.max())
    if not (low >= 0 and high <= white):  # nor if one is not a number
        raise UnknownRange(f"values from {low:g} to {high:g}")
    grey = np.rint((white - samples if inverted else samples) * (255 / white)).astype(np.uint8)
    return _keyed(np.repeat(grey[..., None], 3, axis=-1), samples == key if isinstance(key, int) else None, channels)


def _of_deep_colour(
    picture: Image.Image, low: ImageFile, box: Box, *, key: tuple[int, int, int], channels: int
) -> Pixels:
    made, below = np.array(picture.crop(box)), np.asarray(low.crop(box))
    return _keyed(made, (made * np.uint16(256) + below == key).all(axis=-1), channels)


def _keyed(made: Pixels, clear: Pixels | None, channels: int) -> Pixels:
    """RGB bytes whose ``clear`` pixels are transparent, or white where there are three channels."""
    if channels == 3:
        if clear is not None:
            made[clear] = 255
        return made
    alpha = np.full(made.shape[:2], 255, np.uint8)
    if clear is not None:
        alpha[clear] = 0
    return np.dstack((made, alpha))


def _of_bytes(picture: Image.Image, box: Box, *, channels: int) -> Pixels:
    part = picture.crop(box)
    if channels == 4 or _transparent(part):
        rgba = np.asarray(part.convert("RGBA"))
        return rgba if channels == 4 else over_white(rgba)
    return np.asarray(part if part.mode == "RGB" else part.convert("RGB"))


def _transparent(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def over_white(pixels: Pixels) -> Pixels:
    """(H, W, 4) uint8 -> (H, W, 3): what is transparent laid over white."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, (255,) * 4), picture).convert("RGB"))
