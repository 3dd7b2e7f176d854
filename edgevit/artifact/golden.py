"""The golden pair: a few rows of every input and output, and the pictures they were made from."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array

GOLDEN = "golden.npz"
GOLDEN_ROWS = 4


def write_golden(folder: Path, arrays: Mapping[str, Array], pixels: list[Array]) -> None:
    """golden.npz from name -> array, and golden/N.png from the images behind the rows."""
    from PIL import Image

    # Not np.savez: it cannot store an array called "file", and writes the time, so that no two exports would be equal.
    write: Any = np.lib.format.write_array  # numpy before 2.4 has no types for it
    with zipfile.ZipFile(folder / GOLDEN, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                write(stream, np.asarray(array), allow_pickle=False)
    if pixels:
        (folder / "golden").mkdir()
    for row, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"golden/{row}.png")
