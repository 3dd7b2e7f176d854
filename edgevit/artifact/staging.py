"""A folder that is built beside its place and appears there whole, or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgevit.artifact.manifest import MANIFEST
from edgevit.errors import UsageError


def check_vacant(out: Path, *, force: bool, kind: str = "artifact", marker: str = MANIFEST) -> None:
    """UsageError when ``out`` exists, unless ``force`` and it is empty or one of the ``kind`` that may be replaced: a
    folder with a file called ``marker``."""
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already", hint="choose another -o, or add --force to replace it")
    if any(out.iterdir() if out.is_dir() else [out]) and not (out / marker).is_file():
        raise UsageError(f"{out} is not an edgevit {kind}, so --force does not replace it", hint="choose another -o")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A scratch folder beside ``out``, removed unless the block moves it away. A killed build leaves no ``out``; the
    scratch folder that it does leave is swept by the next build of the same ``out``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.building-"
    for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
        if not _alive(stale.name.removeprefix(prefix).partition("-")[0]):
            shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f"{prefix}{os.getpid()}-"))
    scratch.chmod(0o755)
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


def publish(scratch: Path, out: Path) -> None:
    """Rename a finished scratch folder to ``out``, replacing what is there."""
    if out.exists():
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old-"))
        out.rename(old / "was")
        scratch.rename(out)
        shutil.rmtree(old)
    else:
        scratch.rename(out)
