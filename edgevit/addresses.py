"""Addresses where a path is expected: nothing is downloaded, and the error shows what was written."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ADDRESS = re.compile(r"(?i)(https?|ftp|s3|gs|hf|file|data):/?(?=.)")


def is_address(path: Path) -> bool:
    """Whether a path that leads nowhere was meant as a URL."""
    return _ADDRESS.match(str(path)) is not None and not os.path.lexists(path)


def shown(path: Path) -> str:
    """The path as it was written: an address has lost a slash in it. One that holds its content is cut short."""
    found = _ADDRESS.match(text := str(path))
    if found is None or not is_address(path):
        return text
    if found[1].lower() == "data":
        return f"{text[:40]}…"
    slashes = "///" if found[1].lower() == "file" else "//"
    return f"{found[1]}:{slashes}{text[found.end() :]}"
