"""Model files are opened from a copy that nobody else can reach.

Between the hash of a file and its opening by an engine another process could exchange it, in place or by a rename; a
library or an engine that is loaded then runs code that nobody signed. So the bytes are copied into a folder of this
user alone, hashed on the way, and the copy is what is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgevit.disk import why
from edgevit.errors import BadArtifact, EdgeVitError
from edgevit.foreign import opened
from edgevit.home import home

_CHUNK = 1 << 20
_SPARE = 1 << 20  # bytes left free beside a copy, for the folders themselves


@contextlib.contextmanager
def private_copy(folder: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """A folder that only this user can enter, with the ``files`` of ``folder`` (relative path -> SHA-256): their very
    bytes have those hashes. It is removed when the block ends, by when an engine has read or mapped what it needs.

    BadArtifact for a file that is missing, no file, or of another hash; EdgeVitError where there is no room for them.
    """
    size = sum(_size(folder / name) for name in files)
    with tempfile.TemporaryDirectory(prefix="edgevit-private-", dir=_place(size), ignore_cleanup_errors=True) as made:
        for name, sha256 in files.items():
            require_hash(folder, name, _copied(folder / name, Path(made) / name), sha256)
        yield Path(made)


def require_hash(folder: Path, name: str, found: str, expected: str) -> None:
    """BadArtifact unless the file's hash is the manifest's."""
    if found != expected:
        raise BadArtifact(
            f"{name} in {folder} was altered: its SHA-256 is not the manifest's",
            hint="copy the folder again, or export anew",
        )


def _copied(source: Path, target: Path) -> str:
    """The SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with opened(source, "a model file", error=BadArtifact, hint="export anew") as stream:
        with _said(target):  # here too: to ``opened``, an OSError is the source's
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = target.open("xb", buffering=0)
        with copy:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                with _said(target):
                    copy.write(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _said(target: Path) -> Iterator[None]:
    """An OSError of the copy as one sentence."""
    try:
        yield
    except OSError as exc:
        raise EdgeVitError(
            f"the private copy that is opened cannot be written to {target.parent}: {why(exc)}",
            hint="set TMPDIR to a folder with room",
        ) from exc


def _size(file: Path) -> int:
    with contextlib.suppress(OSError):  # the copy says what is wrong with it
        return file.stat().st_size
    return 0


def _place(size: int) -> str | None:
    """The first folder with room for ``size`` bytes from which libraries can be loaded; None leaves it to the system.

    The usual place for temporary files first; then memory, so that a full disk stops no node from serving what it
    holds; then our own folder.
    """
    usual = None
    with contextlib.suppress(OSError):
        usual = tempfile.gettempdir()
    for place in filter(None, (usual, "/dev/shm", str(home()))):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(place).free >= size + _SPARE and os.access(place, os.W_OK) and _loads(place):
                return place
    return usual


def _loads(place: str) -> bool:
    """Whether code may be mapped from files there: not where it is mounted noexec."""
    if not hasattr(os, "statvfs"):
        return True
    return not os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0)
