"""PNGs whose values are numbers and no colours: read as they are stored, within the bounds of pictures."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.errors import first_line
from edgevit.foreign import read_bounded
from edgevit.images import MAX_BYTES, MAX_PIXELS, ImageError

Array = np.ndarray[Any, Any]

_SPREAD = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of few bits over a byte; of one bit it makes booleans
_GREY = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")


def plane(path: Path, what: str) -> Array:
    """(H, W) int64 values of a PNG of one channel, of a palette its indices. ImageError for anything else."""
    mode, values, stored = _values(path, what)
    if mode not in _GREY:
        raise ImageError(
            f"{path}: a colour picture ({mode}), where {what} has one number a pixel",
            hint="save it as a palette or grey PNG",
        )
    found: Array = values.astype(np.int64) // _SPREAD.get(stored, 1)
    return found


def coloured_plane(path: Path, what: str) -> Array:
    """(H, W) int64 numbers that a PNG of three channels holds, the red byte lowest, as COCO's panoptic ones do."""
    mode, values, _ = _values(path, what)
    if mode != "RGB":
        raise ImageError(f"{path}: no colour picture ({mode}), as {what} is", hint="save it as RGB PNG")
    found: Array = values.astype(np.int64) @ np.array([1, 256, 65536])
    return found


def _values(path: Path, what: str) -> tuple[str, Array, str]:
    """(mode, values, how the file packs them)."""
    from PIL import Image, UnidentifiedImageError

    data = read_bounded(path, MAX_BYTES, what, error=ImageError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    size = f"{picture.width}×{picture.height}"
                    raise ImageError(f"{path}: {size} pixels are too many", hint="scale it down first")
                tiles: Any = picture.tile
                return picture.mode, np.asarray(picture), str(tiles[0].args) if tiles else ""
    except ImageError:
        raise
    except Exception as exc:  # a broken file makes Pillow's decoder raise anything
        said = "its bytes are those of none" if isinstance(exc, UnidentifiedImageError) else first_line(exc)
        raise ImageError(f"{path}: not a PNG that can be read ({said})", hint="is the file complete?") from exc
