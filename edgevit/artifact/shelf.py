"""Rows of outputs: in memory where they are small, on the disk and one at a time where they are large.

A map of 150 classes at 512² has 157 MB. A proof that held sixteen of those, in float64, would need ten times what the
model does; so they are written as they are made, and read one by one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.disk import filling
from edgevit.precisions import Errors, in_blocks

ROW_BYTES = 4 << 20  # of a row, in the type that the artifact gives it: one that takes more is large


class Scratch:
    """A folder that is made when it is first asked for, and gone with the last shelf that lies in it; or one that
    is another process's."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="edgevit-rows-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def file(self) -> Path:
        """A new name in it."""
        handle, name = tempfile.mkstemp(suffix=".rows", dir=self.folder)
        os.close(handle)
        return Path(name)


@dataclass(frozen=True)
class Shelf:
    """An array (rows, …) on the disk; ``rows[3]`` reads one row, ``rows[:4]`` is the shelf of the first four.

    scratch  the folder that it lies in, None where another process keeps that
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scratch: Scratch | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            start, stop, _ = which.indices(len(self))
            if start:
                raise IndexError("a shelf is cut at its end only")
            return Shelf(self.path, (stop, *self.shape[1:]), self.dtype, self.scratch)
        if not 0 <= which < len(self):
            raise IndexError(which)
        values = math.prod(self.shape[1:])
        found = np.fromfile(self.path, self.dtype, values, offset=int(which) * values * self.dtype.itemsize)
        return found.reshape(self.shape[1:])

    def __iter__(self) -> Iterator[Array]:
        return (self[row] for row in range(len(self)))


Rows: TypeAlias = Array | Shelf
Named: TypeAlias = Mapping[str, Rows]


class Gathering:
    """Rows of one output as they come, in order: the first ``count`` of them are kept."""

    def __init__(self, count: int, scratch: Scratch) -> None:
        self.count, self.scratch = count, scratch
        self.parts: list[Array] = []
        self.shelf: Shelf | None = None
        self.taken = 0
        self.row: tuple[int, ...] = ()

    def take(self, part: Array) -> None:
        part, self.row = part[: self.count - self.taken], part.shape[1:]
        self.taken += len(part)
        if not is_large(part.shape[1:], part.dtype):
            self.parts.append(part)
            return
        if self.shelf is None:
            shape = (self.count, *part.shape[1:])
            self.shelf = Shelf(self.scratch.file(), shape, given_type(part.dtype), self.scratch)
        with filling(self.shelf.path), self.shelf.path.open("ab") as stream:
            for row in part:
                for block, *_ in in_blocks(row):
                    block.astype(self.shelf.dtype).tofile(stream)

    def rows(self) -> Rows:
        return np.concatenate(self.parts) if self.shelf is None else self.shelf


Key = TypeVar("Key")


def gathered(
    parts: Iterable[Mapping[Key, Rows]], count: int, scratch: Scratch | None = None, *, absent: float | None = None
) -> dict[Key, Rows]:
    """The first ``count`` rows of arrays by name that come in parts; ``absent`` stands where a part has none of one."""
    scratch, taken = scratch or Scratch(), 0
    found: dict[Key, Gathering] = {}
    for part in parts:
        for name in [name for name in part if name not in found]:
            found[name] = Gathering(count, scratch)
            if taken:
                found[name].take(_absent(absent, taken, part[name].shape[1:]))
        size = max(map(len, part.values()), default=0)
        for name, one in found.items():
            one.take(np.asarray(part[name]) if name in part else _absent(absent, size, one.row))
        taken += size
        del part  # before the next one is made
    return {name: one.rows() for name, one in found.items()}


def _absent(value: float | None, rows: int, row: tuple[int, ...]) -> Array:
    if value is None:
        raise ValueError("arrays by other names in one part than in another")
    return np.broadcast_to(np.float32(value), (rows, *row))


def save_rows(path: Path, found: Named) -> None:
    """The .npz that ``load_rows`` reads: arrays, and where those lie that are on a shelf."""
    arrays: dict[str, Array] = {}
    for name, rows in found.items():
        if isinstance(rows, Shelf):
            arrays[f"shelf:{name}"] = np.array(json.dumps([str(rows.path), rows.shape, rows.dtype.str]))
        else:
            arrays[f"array:{name}"] = rows
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_rows(path: Path, scratch: Scratch | None = None) -> dict[str, Rows]:
    """What ``save_rows`` wrote; shelves lie in ``scratch``, or in a folder that another process keeps."""
    found: dict[str, Rows] = {}
    with np.load(path, allow_pickle=False) as stored:
        for key, value in stored.items():
            kind, _, name = key.partition(":")
            if kind == "shelf":
                place, shape, dtype = json.loads(str(value))
                found[name] = Shelf(Path(place), tuple(shape), np.dtype(dtype), scratch)
            else:
                found[name] = value
    return found


def error_of_rows(got: Rows, want: Rows) -> float:
    """``error_of`` all of them."""
    found = Errors()
    if len(got) != len(want):
        return float("inf")
    for have, due in zip(got, want, strict=True):
        found.take(have, due)
    return found.value()


def given_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that an artifact gives such values in. A float64 reference on a shelf is rounded to it, by 6e-8 at most:
    as in golden.npz, and nothing beside the smallest tolerance."""
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def is_large(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether a row of that shape, as an artifact gives it, takes more than ``ROW_BYTES``."""
    return math.prod(shape) * given_type(dtype).itemsize > ROW_BYTES
