"""The golden pair: a few rows of every input and output, and the pictures they were made from."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array, Sample, TensorSpec
from edgevit.artifact.sampling import figures_of, sampled
from edgevit.artifact.shelf import Rows

GOLDEN = "golden.npz"
GOLDEN_ROWS = 4
GOLDEN_BYTES = 1 << 32  # of all rows together, and of a picture
PICTURES = tuple(f"golden/{row}.png" for row in range(GOLDEN_ROWS))

CLEAR_OF = "clear:"  # before an output's name: which of its values no noise explains away
FIGURES_OF = "figures:"  # before the name of one that is sampled: of all of its values, a stretch at a time

_HEADER = 1 << 16  # bytes before the values of an array
UNREADABLE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def golden_at(size: tuple[int, int]) -> str:
    """The file of the rows at another size of image than the one that a model was made for."""
    return f"golden/{size[0]}x{size[1]}.npz"


def is_golden(name: str) -> bool:
    """Whether a listed file is of the golden pair, and none of the model's."""
    return name in (GOLDEN, *PICTURES) or re.fullmatch(r"golden/[0-9]+x[0-9]+\.npz", name) is not None


def write_golden(folder: Path, arrays: Mapping[str, Array], pixels: list[Array]) -> None:
    """golden.npz from name -> array, and golden/N.png from the images behind the rows."""
    from PIL import Image

    write_arrays(folder / GOLDEN, arrays)
    if pixels:
        (folder / "golden").mkdir()
    for row, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"golden/{row}.png")


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An .npz that is the same whenever the arrays are."""
    # Not np.savez: it cannot store an array called "file", and writes the time, so that no two exports would be equal.
    write: Any = np.lib.format.write_array  # numpy before 2.4 has no types for it
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                write(stream, np.asarray(array), allow_pickle=False)


def kept_rows(spec: TensorSpec, rows: Rows, clear: Rows | None, sample: Sample | None) -> dict[str, Array]:
    """What golden.npz holds of the golden rows of an output, by its names there; ``clear`` of one that is decided."""
    found: dict[str, list[Array]] = {}
    for index in range(len(rows)):
        row, marks = rows[index].astype(spec.dtype, copy=False), None if clear is None else clear[index]
        parts = {spec.name: row} if marks is None else {spec.name: row, CLEAR_OF + spec.name: marks}
        if sample is not None:
            parts = {name: sampled(part, sample) for name, part in parts.items()}
            decided = marks is not None and row.dtype.kind in "biu"
            if not sample.axes:
                parts[FIGURES_OF + spec.name] = figures_of(row, marks, decided=decided)
        for name, part in parts.items():
            found.setdefault(name, []).append(part)
    return {name: np.stack(parts) for name, parts in found.items()}


def read_golden(data: bytes, specs: Iterable[TensorSpec], rows: int = GOLDEN_ROWS) -> dict[str, Array]:
    """The ``rows`` of every spec by name, from the bytes of a golden.npz. One of ``UNREADABLE`` for an archive that
    lacks one or holds another type or shape: its header is believed in nothing, and read before any memory is taken."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(info.file_size for info in archive.infolist()) > GOLDEN_BYTES:
            raise ValueError(f"it holds more than {GOLDEN_BYTES:,} bytes")
        return {spec.name: _member(archive, spec, rows) for spec in specs}


def _member(archive: zipfile.ZipFile, spec: TensorSpec, rows: int) -> Array:
    info = archive.getinfo(f"{spec.name}.npy")
    shapes, dtype = (spec.rows(rows), spec.shape), np.dtype(spec.dtype)  # a fixed batch may be there whole
    size = max(math.prod(side for side in shape if side != "batch") for shape in shapes) * dtype.itemsize
    if info.file_size > size + _HEADER:
        raise ValueError(f"it does not hold {rows} rows of {spec.name}: {info.file_size:,} bytes for {size:,}")
    with archive.open(info) as stream:
        found = _header(stream)
        if found[0] not in shapes or found[1] != dtype:
            raise ValueError(f"it does not hold {rows} rows of {spec.name}: {found[1]} {found[0]}")
        stream.seek(0)
        read: Any = np.lib.format.read_array
        array: Array = read(stream, allow_pickle=False)
    return array


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array."""
    form: Any = np.lib.format
    version = form.read_magic(stream)
    read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=_HEADER)
    return shape, dtype
