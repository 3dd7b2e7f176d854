"""Arrays and figures on the disk, by the hash of what decided them.

Nothing here may cost an export, or change one: a folder that others can write is not used, a file that is not whole,
not this user's or not of this form is none, and a disk that is full or read-only only keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.errors import EdgeVitError
from edgevit.foreign import opened
from edgevit.home import home

LIMIT = 1 << 30  # bytes of all entries, or a tenth of the disk's free room where that is less
SHARE = 4  # an entry of more than a quarter of that would push out too many others
SUFFIX = ".found"
_MAGIC = b"edgevit cache 1\n"
_FACTS = "facts"
_TORN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Entry:
    """JSON values, and arrays by name."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, Array]

    def packed(self) -> bytes:
        """As an npz without pickles; ValueError for arrays of objects, TypeError for facts that are no JSON."""
        if any(array.dtype.hasobject for array in self.arrays.values()):
            raise ValueError("numpy would pickle them")
        stream = io.BytesIO()
        named: dict[str, Any] = {f"array/{name}": array for name, array in self.arrays.items()}
        named[_FACTS] = np.frombuffer(json.dumps(dict(self.facts)).encode(), np.uint8)
        np.savez(stream, **named)
        return stream.getvalue()


@dataclass(frozen=True)
class Store:
    """A folder of entries, the least recently used of which go first. ``limit`` is in bytes."""

    folder: Path
    limit: int = LIMIT

    def get(self, key: str) -> Entry | None:
        """What was put under the key, if every byte of it is there."""
        path = self._path(key)
        with contextlib.suppress(EdgeVitError, *_TORN):
            with opened(path, "a cache entry", limit=self.limit) as stream:
                if not _private(os.fstat(stream.fileno())):
                    return None
                found = stream.read()
            head, body = found[: len(_MAGIC) + 32], found[len(_MAGIC) + 32 :]
            if head != _head(key, body):
                return None
            with contextlib.suppress(OSError):
                os.utime(path)
            return _unpacked(body)
        return None

    def put(self, key: str, entry: Entry) -> None:
        """Keep it, if there is room: in place of others, but of not too many."""
        with contextlib.suppress(*_TORN, TypeError):
            room = self._room()
            if sum(array.nbytes for array in entry.arrays.values()) > room // SHARE:
                return
            body = entry.packed()
            self._make_room(room - len(body))
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=f"{SUFFIX}.part")  # 0600
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(_head(key, body) + body)
                Path(name).replace(self._path(key))
            finally:
                Path(name).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _room(self) -> int:
        held = sum(one.st_size for _, one in self._files())
        return min(self.limit, (shutil.disk_usage(self.folder).free + held) // 10)

    def _make_room(self, left: int) -> None:
        """Remove the oldest of use, also what a process that died left half-written, until ``left`` bytes remain."""
        for path, found in sorted(self._files(), key=lambda one: -one[1].st_mtime_ns):
            left -= found.st_size
            if left < 0:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Our own files, and no others that somebody put there."""
        for path in (*self.folder.glob(f"*{SUFFIX}"), *self.folder.glob(f"*{SUFFIX}.part")):
            with contextlib.suppress(OSError):
                yield path, path.lstat()


def own_store() -> Store | None:
    """The store of this user; None where there can be none that others cannot write."""
    folder = home() / "cache"
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if _private(folder.stat()):
            return Store(folder)
    return None


def _private(found: os.stat_result) -> bool:
    """Whether it is this user's, and nobody else can write it: an answer that another planted would be believed."""
    if os.name != "posix":
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _head(key: str, body: bytes) -> bytes:
    """What stands before the body: it fits no other key, so that no file answers under another's name."""
    return _MAGIC + hashlib.sha256(key.encode() + body).digest()


def _unpacked(body: bytes) -> Entry:
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        arrays = {name.removeprefix("array/"): found[name] for name in found.files if name != _FACTS}
        return Entry(json.loads(found[_FACTS].tobytes()), arrays)
