"""Images with the distance of every pixel: ``images/``, and ``depth/`` with a 16-bit PNG or .npy of the same name."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.data.labelled import LabelledData, Split, digest_of_file, from_files
from edgevit.data.npz import read_array
from edgevit.data.paired import Layout, pairs_in
from edgevit.data.planes import plane
from edgevit.data.targets import Targets
from edgevit.errors import UsageError
from edgevit.foreign import read_text

Array = np.ndarray[Any, Any]

SCALE = "scale.txt"
MILLIMETRE = 0.001
_LAYOUT = Layout(
    "images", "depth", (".png", ".npy"),
    f"depth:PATH holds images/, depth/ with 16-bit PNGs or .npy, and {SCALE} with the metres of one step if not 0.001",
)  # fmt: skip


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """Whole numbers are steps of a millimetre, or of the metres in ``scale.txt``; floats are metres; 0 is unknown.

    UsageError for files without their other half; on access, for a map that is none.
    """
    pairs, step = pairs_in(path, _LAYOUT, split), _step(path)
    load, digest = partial(_map, pairs.second, step), partial(_digest, pairs.second, step)
    targets = Targets("depth", load, range(len(pairs.second)), digest)
    return pairs.part(LabelledData(spec, from_files(pairs.first), targets=targets), split, seed)


def _step(folder: Path) -> float:
    path = folder / SCALE
    if not path.exists():
        return MILLIMETRE
    text = read_text(path, "a number of metres").strip()
    try:
        step = float(text)
    except ValueError:
        step = math.nan
    if not (math.isfinite(step) and step > 0):
        raise UsageError(f"{path}: {text[:20]!r} is no number of metres", hint="write one, such as 0.001")
    return step


def _map(paths: list[Path], step: float, index: int) -> Array:
    """(H, W) float32 metres, 0 where they are not known: no number, infinite, or not above 0."""
    path = paths[index]
    stored = plane(path, "a depth map") if path.suffix == ".png" else read_array(path)
    if stored.ndim != 2 or stored.dtype.kind not in "fiu":
        raise UsageError(
            f"{path}: {stored.dtype} of shape {stored.shape}, no depth map", hint="store (height, width) numbers"
        )
    metres = stored.astype(np.float32) * np.float32(1.0 if stored.dtype.kind == "f" else step)
    found: Array = np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))
    return found


def _digest(paths: list[Path], step: float, index: int) -> bytes:
    return digest_of_file(paths, index) + repr(step).encode()
