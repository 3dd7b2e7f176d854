"""Names of classes in a ``classes.txt``: one a line, in order."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import UsageError
from edgevit.foreign import read_text

FILE = "classes.txt"


def names_in(folder: Path) -> tuple[str, ...] | None:
    """The names, None where there is no such file. UsageError for an empty line, and for a name that is there twice."""
    path = folder / FILE
    if not path.exists():
        return None
    names = tuple(line.strip() for line in read_text(path, "a list of classes").strip().splitlines())
    if not all(names):
        raise UsageError(f"{path}: a line is empty", hint="write one name a line, that of class 0 first")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{path}: {twice!r} is there twice", hint="give every class a name of its own")
    return names
