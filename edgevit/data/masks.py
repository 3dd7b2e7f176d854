"""Images with the class of every pixel: ``images/``, and ``masks/`` with a PNG of class numbers of the same name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.data.labelled import LabelledData, Split, digest_of_file, from_files
from edgevit.data.names import FILE, names_in
from edgevit.data.paired import Layout, pairs_in
from edgevit.data.planes import plane
from edgevit.data.targets import IGNORE, Targets
from edgevit.errors import UsageError

Array = np.ndarray[Any, Any]

UNCOUNTED = (255, 65535)  # the largest values of 8 and of 16 bits: nothing is known of such a pixel
_LAYOUT = Layout(
    "images", "masks", (".png",), f"masks:PATH holds images/, masks/ with PNGs of class numbers, and {FILE}"
)


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """Masks are read when they are looked at; ``classes.txt`` names their numbers, where it is there.

    UsageError for files without their other half; on access, for a mask that is none, and for a number without a name.
    """
    pairs = pairs_in(path, _LAYOUT, split)
    classes = names_in(path)
    count = len(classes) if classes else None
    targets = Targets(
        "masks",
        partial(_mask, pairs.second, count),
        range(len(pairs.second)),
        partial(digest_of_file, pairs.second),
    )
    return pairs.part(LabelledData(spec, from_files(pairs.first), classes=classes, targets=targets), split, seed)


def _mask(paths: list[Path], count: int | None, index: int) -> Array:
    """(H, W) int64, IGNORE where it holds 255 (65535 in 16 bits)."""
    found = plane(paths[index], "a mask")
    found[np.isin(found, UNCOUNTED)] = IGNORE
    if count is not None and found.max(initial=IGNORE) >= count:
        raise UsageError(
            f"{paths[index]}: class {int(found.max())} has no name in {FILE}, which has {count}",
            hint="add it, or use 255 for what is to be ignored",
        )
    return found
