"""Hashes of files, and writes that leave the old file or the new one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgevit.artifact.claim import beside
from edgevit.artifact.manifest import MANIFEST, SIGNATURE

_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return sha256_of_stream(stream)


def sha256_of_stream(stream: BinaryIO) -> str:
    """The hex SHA-256 of what is left to read; hashlib.file_digest is not in Python 3.10."""
    found = hashlib.sha256()
    while data := stream.read(_CHUNK):
        found.update(data)
    return found.hexdigest()


def hash_tree(folder: Path) -> dict[str, str]:
    """Relative POSIX path -> SHA-256 of every file below ``folder`` but the manifest and its signature."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in found
        if path.relative_to(folder).as_posix() not in (MANIFEST, SIGNATURE)
    }


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path``, which replaces it when the block ends well: a reader sees the old one or the new
    one, never a part. Whatever writes it, others may read it as they may any new file: mkstemp and safetensors would
    hide theirs from the other users of a shared folder."""
    scratch = beside(path, f"{os.getpid()}-{secrets.token_hex(4)}")
    os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(scratch.stat().st_mode)  # the umask's, which cannot be asked for without setting it
    try:
        yield scratch
        scratch.chmod(mode)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old or the new one, never a part. A byte of a file name that is
    no text is written as JSON and people can read it."""
    with replaced(path) as scratch, scratch.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a small file so that it is the old or the new one, whatever kills the process or the power, and is at no
    time readable by others than ``mode`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=beside(path, "").name)  # 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if mode != 0o600:
            Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_private_once(path: Path, text: str) -> None:
    """Write a secret unless there is one: never readable by others, never half-written, and of two the first wins."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(f"{text}\n")
    try:
        os.link(scratch, path)
    except FileExistsError:
        pass
    finally:
        scratch.unlink()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
