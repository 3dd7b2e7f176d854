"""Photos bundled with scikit-learn and scikit-image."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from edgevit.data.labelled import LabelledData, Pixels, from_arrays, installed_at
from edgevit.errors import UsageError
from edgevit.images import decode

_CROP = 320
# Colour photos inside the wheels, (package, path below it). Others of skimage.data would be downloaded on first use.
_PHOTOS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    *(
        ("skimage", f"data/{name}")
        for name in (
            "astronaut.png",
            "chelsea.png",
            "coffee.png",
            "rocket.jpg",
            "motorcycle_left.png",
            "retina.jpg",
            "hubble_deep_field.jpg",
            "ihc.png",
        )
    ),
)


# What is made of photos (scenes, pairs) is trained on the others.
_HELD_OUT = ("flower.jpg", "coffee.png")


@cache
def samples() -> LabelledData:
    """Real colour photos cut into 320×320 corners: first corner of every photo, then the second, …; no labels."""
    pixels = [decode(path) for path in _files()]
    crops = [corner for which in range(4) for photo in pixels if (corner := _corner(photo, which)) is not None]
    return LabelledData("samples", from_arrays(crops))


@cache
def photos(*, held_out: bool) -> tuple[Pixels, ...]:
    """The whole photos, (H, W, 3) uint8: those that are held out, or those to train on."""
    return tuple(decode(path) for path in _files() if (path.name in _HELD_OUT) == held_out)


def _files() -> list[Path]:
    roots = {
        "sklearn": installed_at("sklearn", "scikit-learn", "the sample photos"),
        "skimage": installed_at("skimage", "scikit-image", "the sample photos"),
    }
    found = [path for package, name in _PHOTOS if (path := roots[package] / name).is_file()]
    if len(found) < 9:  # some are too low for four corners
        raise UsageError("the installed scikit-image bundles too few photos", hint="pip install -U scikit-image")
    return found


def _corner(photo: Pixels, which: int) -> Pixels | None:
    """One of four corners of a photo; None where a small photo has the same corner already."""
    height, width = min(_CROP, photo.shape[0]), min(_CROP, photo.shape[1])
    top, left = (photo.shape[0] - height) * (which >> 1), (photo.shape[1] - width) * (which & 1)
    if (which & 2 and not top) or (which & 1 and not left):
        return None
    return np.ascontiguousarray(photo[top : top + height, left : left + width])
