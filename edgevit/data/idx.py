"""MNIST, Fashion-MNIST and their like as their authors publish them: IDX files of images and labels, gzipped or not.

Format: http://yann.lecun.com/exdb/mnist/. A header of big-endian integers, then bytes.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgevit.data.labelled import LabelledData, Split, from_array
from edgevit.data.names import FILE, names_in
from edgevit.data.split import part
from edgevit.errors import UsageError
from edgevit.foreign import entries, opened

Array = np.ndarray[Any, Any]

MOST = 1 << 30  # bytes of one file, unpacked; the largest published, EMNIST's, has 0.55 GB
_HINT = "give the folder that holds train-images-idx3-ubyte and its labels, as published, .gz or not"
_IMAGES = re.compile(r"(?P<part>.*)images[.-]idx3-ubyte(\.gz)?")
_HELD_OUT = ("t10k", "test", "val")
_BYTES = 8  # the code of unsigned bytes, which all of them hold


def read(path: Path, spec: str, split: Split, seed: int) -> LabelledData:
    """(N, H, W) images with labels; those called ``t10k`` or ``test`` are held out, where there are others.
    ``classes.txt`` names the classes.

    UsageError for a folder without such files, and for a file that is cut, larger than it says, or of something else.
    """
    files = [found for name in _files(path) if (found := _IMAGES.fullmatch(name))]
    folder = path if path.is_dir() else path.parent
    held = [found for found in files if any(name in found["part"] for name in _HELD_OUT)]
    train = [found for found in files if found not in held]
    own = bool(train and held)
    chosen = {"train": train, "held-out": held}[split] if own and split != "all" else [*train, *held]
    if not chosen:
        raise UsageError(f"{path}: no IDX files of images here", hint=_HINT)
    _require_one_set(path, chosen)
    images = [_array(folder / found.string, 3) for found in chosen]
    labels = [_labels(folder, found, len(rows)) for found, rows in zip(chosen, images, strict=True)]
    if len({rows.shape[1:] for rows in images}) > 1:
        raise UsageError(f"{path}: its files hold images of different sizes", hint=_HINT)
    together = np.concatenate(labels)
    whole = LabelledData(spec, from_array(np.concatenate(images)), together, _named(folder, together))
    return whole if own else part(whole, split, seed)


def _files(path: Path) -> list[str]:
    """Names of files; of one that lies there packed and unpacked, as torchvision leaves them, the unpacked."""
    if path.is_file():
        return [path.name]
    names = {file.name for file in entries(path, _HINT) if file.is_file()}
    return sorted(name for name in names if name.removesuffix(".gz") == name or name.removesuffix(".gz") not in names)


def _require_one_set(path: Path, chosen: list[re.Match[str]]) -> None:
    """EMNIST's folder holds six sets."""
    kept: dict[str, str] = {}
    for found in chosen:
        which = "held out" if any(name in found["part"] for name in _HELD_OUT) else "trained on"
        if other := kept.get(which):
            raise UsageError(
                f"{path}: {other} and {found.string} are both images that are {which}",
                hint=f"name one of them: idx:{path / found.string}",
            )
        kept[which] = found.string


def _labels(folder: Path, images: re.Match[str], count: int) -> Array:
    stem = images.string.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    path = next((folder / name for name in (stem, f"{stem}.gz") if (folder / name).is_file()), folder / stem)
    found = _array(path, 1)
    if len(found) != count:
        raise UsageError(f"{path}: {len(found):,} labels for {count:,} images", hint="is the copy complete?")
    return found.astype(np.int64)


def _named(folder: Path, labels: Array) -> tuple[str, ...]:
    highest = int(labels.max(initial=0))
    names = names_in(folder) or tuple(str(index) for index in range(highest + 1))
    if highest >= len(names):
        raise UsageError(f"{folder}: label {highest} has no name in {FILE}", hint="write one name a line, in order")
    return names


def _array(path: Path, rank: int) -> Array:
    """The bytes of a file, in their shape."""
    with opened(path, "an IDX file", hint=_HINT) as stream:
        packed = path.suffix == ".gz"
        try:
            with gzip.GzipFile(fileobj=stream) if packed else stream as unpacked:
                return _parsed(path, unpacked, rank)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise UsageError(f"{path}: broken gzip ({exc})", hint="is the copy complete?") from exc


def _parsed(path: Path, stream: BinaryIO, rank: int) -> Array:
    header = stream.read(4 + 4 * rank)
    if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, _BYTES, rank)):
        raise UsageError(f"{path}: not an IDX file of bytes in {rank} dimensions", hint=_HINT)
    shape = tuple(int(side) for side in np.frombuffer(header[4:], ">u4"))
    size = int(np.prod([float(side) for side in shape]))
    if not 0 < size <= MOST:
        said = "×".join(map(str, shape))
        raise UsageError(f"{path}: says it holds {said} bytes, where 1 to {MOST:,} are read", hint=_HINT)
    data = _exactly(stream, size)
    if len(data) != size:
        which = "more" if len(data) > size else f"{len(data):,}"
        raise UsageError(f"{path}: {which} bytes, where it says {size:,}", hint="is the copy complete?")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """Up to one byte more than ``size``: a header that lies costs no memory for what is not there."""
    found = bytearray()
    while len(found) <= size and (chunk := stream.read(min(1 << 20, size + 1 - len(found)))):
        found += chunk
    return bytes(found)
