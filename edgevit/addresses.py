"""Addresses where a path is expected: nothing is downloaded, and the error shows what was written."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

_SCHEMES = "https?|ftps?|sftp|s3|gs|az|hf|file|data|rtsps?|rtmps?|rtp|srt|udp|mms"
_ADDRESS = re.compile(rf"(?i)({_SCHEMES}):/?(?=.)")
_NEXT = (
    (r"https?|ftps?|sftp", "download it first: curl -O {}"),
    (r"s3", "download it first: aws s3 cp {} ."),
    (r"gs", "download it first: gcloud storage cp {} ."),
    (r"rtsps?|rtmps?|rtp|srt|udp|mms", "record a part of it first: ffmpeg -i {} -t 10 clip.mp4"),
    (r"file", "name the file by its path alone"),
    (r".*", "download it first, and name the file"),
)


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


def next_step(path: Path) -> str:
    """What to do about an address, for a hint."""
    found = _ADDRESS.match(str(path))
    scheme = found[1].lower() if found else ""
    return next(said for schemes, said in _NEXT if re.fullmatch(schemes, scheme)).format(shlex.quote(shown(path)))
