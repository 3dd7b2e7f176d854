"""A place for what a command will write: one writer at a time, and found writable before the work."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevit.disk import writing
from edgevit.errors import UsageError

LEAST_FREE = 1 << 20  # bytes; the smallest artifact with its proof takes more
_NAME_BYTES, _SPARE = 255, 40  # of a file's name, and for what is put around one

if sys.platform != "win32":
    import fcntl


@contextmanager
def claimed(out: Path, *, least: int = LEAST_FREE) -> Iterator[None]:
    """``out``, a file or a folder that need not exist, is written by this block alone, of all processes that ask so.

    UsageError where another is at it, where the folder above cannot be made or written, or its disk has less than
    ``least`` bytes free. The system lets go of it when the process ends, however that is. Over NFS it holds between
    machines as far as the server keeps locks; where it keeps none there is no claim, and the rest holds.
    """
    place = Path(os.path.abspath(out))
    with writing(out, UsageError):
        made = _make(place.parent)
        try:
            handle = _locked(beside(place, "lock"))
        except BlockingIOError:
            hint = "wait until it has finished, or choose another -o"
            raise UsageError(f"another edgevit is writing to {out}", hint=hint) from None
    try:
        check_room(out, least)
        yield
    finally:
        with suppress(OSError):
            beside(place, "lock").unlink()
        if handle is not None:
            os.close(handle)
        for folder in made:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def check_room(out: Path, needed: int) -> None:
    """UsageError where the disk that ``out`` will be on has fewer bytes free."""
    with writing(out, UsageError):
        free = shutil.disk_usage(Path(os.path.abspath(out)).parent).free
    if free < needed:
        raise UsageError(
            f"{out} cannot be written: no space left: {free:,} bytes are free, and it takes more than {needed:,}",
            hint="free some space, or choose another disk",
        )


def beside(out: Path, mark: str) -> Path:
    """A hidden name next to ``out`` that is not too long where its own is not: ``.NAME.MARK``."""
    name = os.fsencode(out.name)
    if len(name) + len(mark) + _SPARE > _NAME_BYTES:
        return out.with_name(f".{hashlib.sha256(name).hexdigest()[:16]}.{mark}")
    return out.with_name(f".{out.name}.{mark}")


def _make(folder: Path) -> list[Path]:
    """Make the folder and those above it; those that were not there, the lowest first."""
    missing = []
    for one in (folder, *folder.parents):
        if os.path.lexists(one):
            break
        missing.append(one)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _locked(lock: Path) -> int | None:
    """The lock file, held; None where the file system has no locks. BlockingIOError where another holds it."""
    if sys.platform == "win32":
        try:
            return os.open(lock, os.O_CREAT | os.O_EXCL | os.O_TEMPORARY)  # gone with the process
        except FileExistsError:
            raise BlockingIOError from None
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:
            os.close(handle)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        os.close(handle)  # the one before deleted the name while we opened it: once more
