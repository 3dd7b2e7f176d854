"""A folder that is built beside its place and appears there whole, or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgevit.artifact.claim import beside
from edgevit.artifact.manifest import MANIFEST
from edgevit.disk import writing
from edgevit.errors import UsageError


def check_vacant(out: Path, *, force: bool, kind: str = "artifact", marker: str = MANIFEST) -> None:
    """UsageError when ``out`` exists, unless ``force`` and it is empty or one of the ``kind`` that may be replaced: a
    folder with a file called ``marker``."""
    with writing(out, UsageError):
        try:
            found = os.lstat(out)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            above = next(one for one in out.parents if os.path.lexists(one))
            raise UsageError(f"{above} is a file, so {out} cannot be in it", hint="choose another -o") from None
        if stat.S_ISLNK(found.st_mode) and not out.exists():
            raise UsageError(f"{out} is a link that leads nowhere", hint="remove it, or choose another -o")
        if not force:
            raise UsageError(f"{out} exists already", hint="choose another -o, or add --force to replace it")
        if os.path.ismount(out):
            raise UsageError(f"{out} is a disk of its own and cannot be replaced", hint="choose a folder in it")
        if any(out.iterdir() if out.is_dir() else [out]) and not (out / marker).is_file():
            hint = "choose another -o"
            raise UsageError(f"{out} is not an edgevit {kind}, so --force does not replace it", hint=hint)


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A scratch folder beside ``out``, removed unless the block moves it away. A killed build leaves no ``out``; the
    scratch folder that it does leave is swept by the next build of the same ``out``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = beside(out, "building-").name
    for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
        if not _alive(stale.name.removeprefix(prefix).partition("-")[0]):
            shutil.rmtree(stale, ignore_errors=True)
    scratch = out.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    scratch.mkdir()  # not mkdtemp, whose folder other users could not enter
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _alive(pid: str) -> bool:
    """Whether a process of this number runs. Unsure means yes: nothing of a living build may be swept away."""
    if os.name == "nt":  # there, signal 0 is Ctrl-C and not a question
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True


def publish(scratch: Path, out: Path, *, force: bool = True) -> None:
    """Rename a finished scratch folder to ``out``, replacing what is there; UsageError without ``force``. Whoever may
    enter it may read all that is in it."""
    _opened_alike(scratch)
    if not os.path.lexists(out):
        scratch.rename(out)
        return
    if not force:
        raise UsageError(f"{out} exists already: it was made meanwhile", hint="choose another -o, or add --force")
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=beside(out, "old-").name))
    out.rename(old / "was")
    try:
        scratch.rename(out)
    except OSError:
        (old / "was").rename(out)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _opened_alike(folder: Path) -> None:
    """Give everything below ``folder`` its permissions: some converters make files that only this user can read."""
    whole = stat.S_IMODE(folder.stat().st_mode)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(whole if runs else whole & 0o666)


def failed_name(out: Path) -> Path:
    """Where a build that failed its proof is kept: ``OUT.failed``."""
    named = out.with_name(f"{out.name}.failed")
    return named if len(os.fsencode(named.name)) <= 255 else beside(out, "failed")
