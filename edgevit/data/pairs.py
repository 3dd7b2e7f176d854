"""Pictures and what they should be: two folders, or the bundled photos beside smaller copies of themselves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from edgevit.data.folder import EXTENSIONS
from edgevit.data.labelled import LabelledData, Pixels, Split, from_arrays, from_files
from edgevit.data.paired import Layout, pairs_in
from edgevit.data.samples import photos
from edgevit.data.targets import Targets

LOW, HIGH = "low", "high"
TILE = 48  # side of the small pictures that bundled photos are cut into
_SAMPLES = re.compile(r"pairs:samples[x×]([2-4])")
_HINT = f"pairs:PATH holds {LOW}/ and {HIGH}/ with pictures of the same names; pairs:samples×2 (×3, ×4) needs no files"
_LAYOUT = Layout(LOW, HIGH, EXTENSIONS, _HINT)


def scale_of(spec: str) -> int | None:
    """How many times larger the bundled photos are than their copies, None where it is a path that is named."""
    found = _SAMPLES.fullmatch(spec)
    return int(found[1]) if found else None


def of_samples(spec: str, scale: int, split: Split) -> LabelledData:
    """Tiles of the bundled photos: 48×48 of a copy made smaller by antialiased bicubic, and what they were made of.

    The held-out tiles are of photos that no other tile is of.
    """
    parts = {"train": (False,), "held-out": (True,), "all": (False, True)}[split]
    tiles = [tile for held_out in parts for photo in photos(held_out=held_out) for tile in _tiles(photo, scale)]
    high = from_arrays([tile for _, tile in tiles])
    return LabelledData(
        spec, from_arrays([tile for tile, _ in tiles]), targets=Targets("pictures", high.__getitem__, range(len(high)))
    )


def smaller(picture: Pixels, scale: int) -> Pixels:
    """(H, W, 3) uint8 -> (H / scale, W / scale, 3), by antialiased bicubic; the sides must be multiples."""
    from PIL import Image

    size = picture.shape[1] // scale, picture.shape[0] // scale
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _tiles(photo: Pixels, scale: int) -> list[tuple[Pixels, Pixels]]:
    height, width = (side // scale * scale for side in photo.shape[:2])
    high = photo[:height, :width]
    low, step = smaller(high, scale), TILE * scale
    return [
        (
            low[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE],
            high[row * step : (row + 1) * step, column * step : (column + 1) * step],
        )
        for row in range(height // step)
        for column in range(width // step)
    ]


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """Pictures of ``low/`` with those of the same names in ``high/``, whatever the endings.

    UsageError for a folder that is missing or empty, and for a picture that is in one of them alone.
    """
    pairs = pairs_in(path, _LAYOUT, split)
    high = from_files(pairs.second)
    targets = Targets("pictures", high.__getitem__, range(len(high)), high.digest)
    return pairs.part(LabelledData(spec, from_files(pairs.first), targets=targets), split, seed)
