"""What a disk says no to, in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.errors import EdgeVitError

_NEXT = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or choose another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "raise the limit of a file's size: ulimit -f",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


@contextmanager
def writing(path: Path, kind: type[EdgeVitError] = EdgeVitError) -> Iterator[None]:
    """An OSError inside is ``kind``: "PATH cannot be written: no space left on device", and what to do."""
    try:
        yield
    except OSError as exc:
        hint = _NEXT.get(exc.errno or 0, "choose another place")
        raise kind(f"{path} cannot be written: {why(exc)}", hint=hint) from exc


@contextmanager
def filling(path: Path) -> Iterator[None]:
    """The same for long work below ``path``, and only where the disk is the reason."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _DISK:
            raise
        with writing(path):
            raise


def in_words(exc: OSError) -> EdgeVitError:
    """One that nobody expected, with the file that it names."""
    where = f"{exc.filename}: " if exc.filename else ""
    hint = "check its permissions" if exc.errno in (errno.EACCES, errno.EPERM) else _NEXT.get(exc.errno or 0)
    return EdgeVitError(f"{where}{why(exc)}", hint=hint)


def why(exc: OSError) -> str:
    """What it says, without its number and paths: "no such file or directory"."""
    return (exc.strerror or str(exc) or type(exc).__name__).splitlines()[0].lower()
