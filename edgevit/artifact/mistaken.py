"""What a path is that is no artifact or no bundle, and what was probably meant."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from edgevit.addresses import is_address, shown
from edgevit.artifact.manifest import MANIFEST
from edgevit.disk import why
from edgevit.errors import BadArtifact

KINDS = {"artifact": MANIFEST, "bundle": "bundle.json"}  # kind of folder -> the file that makes it one
_MADE_BY = {"artifact": "edgevit export makes one", "bundle": "edgevit split makes one"}
_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_SHOWN = 4  # folders that a hint names


def mistaken(path: Path, kind: str) -> BadArtifact:
    """The error for a ``path`` without the file that makes it a folder of the ``kind``, "artifact" or "bundle"."""
    what, hint = _told(path, kind)
    return BadArtifact(f"{shown(path)} is not an edgevit {kind}: {what}", hint=hint)


def _told(path: Path, kind: str) -> tuple[str, str]:
    try:
        os.stat(path)
    except OSError as exc:
        return _nowhere(path, kind, exc)
    above = next(_above(path), None)
    if (other := kind_of(path)) is not None:
        return f"it is {'an' if other == 'artifact' else 'a'} {other}", _other(path, kind, above)
    if above is not None:
        it = "a folder" if path.is_dir() else "a file"
        return f"it is {it} inside the {kind_of(above)} {above}", f"give that folder: {above}"
    if not path.is_dir():
        if _is_archive(path):
            return "it is an archive", "unpack it first, and give the folder"
        return "it is a file, and not a folder", _MADE_BY[kind]
    if found := [str(one) for one in islice(_below(path), _SHOWN + 1)]:
        more = ", …" if len(found) > _SHOWN else ""
        return f"no {KINDS[kind]} in it", f"give one of the folders in it: {', '.join(found[:_SHOWN])}{more}"
    return f"no {KINDS[kind]} in it", _MADE_BY[kind]


def _other(path: Path, kind: str, above: Path | None) -> str:
    """What to give instead of a folder of the other kind."""
    if above is not None and kind_of(above) == kind:
        return f"give the {kind} that it is in: {above}"
    member = next((one for one in _below(path) if kind_of(one) == kind), None)
    return f"give the folder of a member: {member}" if member else _MADE_BY[kind]


def _nowhere(path: Path, kind: str, exc: OSError) -> tuple[str, str]:
    if is_address(path):
        return "it is an address", "download it first, and name the folder"
    if os.path.lexists(path) and isinstance(exc, FileNotFoundError):
        return "it is a link that leads nowhere", "check the link"
    if (above := next(_above(path), None)) is not None:
        return f"the {kind_of(above)} {above} has nothing of that name", f"give that folder: {above}"
    if os.path.isdir(f"{path}.failed"):
        return "no such folder", f"its build failed its proof and is kept as {path}.failed"
    if isinstance(exc, FileNotFoundError):
        return "no such folder", _MADE_BY[kind]
    return why(exc), "check the path"


def kind_of(path: Path) -> str | None:
    """ "artifact" or "bundle", or None for any other folder."""
    return next((kind for kind, marker in KINDS.items() if os.path.isfile(path / marker)), None)


def _above(path: Path) -> Iterator[Path]:
    """The artifacts and bundles that the path lies in, the nearest first."""
    return (one for one in path.parents if kind_of(one))


def _below(path: Path) -> Iterator[Path]:
    """The artifacts and bundles right in the folder, by name."""
    with suppress(OSError):
        yield from (one for one in sorted(path.iterdir()) if kind_of(one))


def _is_archive(path: Path) -> bool:
    if path.suffix.lower() in _ARCHIVES:
        return True
    if not path.is_file():  # a pipe would be waited for
        return False
    with suppress(OSError):
        return zipfile.is_zipfile(path)
    return False
