"""Files that others wrote, read within bounds.

A path that a user gives may be a folder, a pipe, a device or a file without end. ``read_bounded`` is the one way to
the bytes of a small one, ``opened`` to those of a large one; both end in one sentence, and never wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from edgevit.addresses import is_address, next_step, shown
from edgevit.disk import why
from edgevit.errors import EdgeVitError, UsageError

TEXT_BYTES = 16 << 20  # of a list of labels, a plan, a manifest: the largest made so far has 2 MB

_CHUNK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_bounded(
    path: Path, limit: int, what: str, *, error: type[EdgeVitError] = UsageError, hint: str | None = None
) -> bytes:
    """All bytes of a regular file, or of what a link leads to, as far as they are no more than ``limit``.

    ``error`` says in one sentence why not: missing, forbidden, too large, or no file. ``what`` is what it should be
    ("an image", "a plan").
    """
    with opened(path, what, limit=limit, error=error, hint=hint) as stream:
        data = _read(stream, limit + 1)
        if len(data) > limit:  # it grew, or its size was not its own, as in /proc
            raise error(f"{path}: more than the {limit:,} bytes that {what} may have", hint=hint)
        return data


def read_text(path: Path, what: str, *, error: type[EdgeVitError] = UsageError, hint: str | None = None) -> str:
    """The same of UTF-8 text, a byte order mark left out, of up to ``TEXT_BYTES``."""
    data = read_bounded(path, TEXT_BYTES, what, error=error, hint=hint)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise error(f"{path}: not {what}: byte {exc.start} is no UTF-8 text", hint=hint) from exc


def read_json(path: Path, what: str, *, error: type[EdgeVitError] = UsageError, hint: str | None = None) -> Any:
    """The same, parsed; ``error`` for what is no JSON, or is nested too deeply to be meant."""
    try:
        return parse_json(read_text(path, what, error=error, hint=hint))
    except ValueError as exc:
        raise error(f"{path}: not {what}: {exc}", hint=hint) from exc


def parse_json(text: str) -> Any:
    """JSON as its standard has it: ValueError also for what nests too deeply to be meant, for NaN and Infinity, for a
    number that no float holds, and for a name that is given twice (of which another reader may take the other)."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError as exc:
        raise ValueError("its JSON is nested too deeply") from exc


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document; ValueError for what is none, or nests too deeply to be meant."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise ValueError("its TOML is nested too deeply") from exc


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"{twice!r} is given twice")
    return found


@contextlib.contextmanager
def opened(
    path: Path,
    what: str,
    *,
    limit: int | None = None,
    error: type[EdgeVitError] = UsageError,
    hint: str | None = None,
) -> Iterator[BinaryIO]:
    """A regular file of at most ``limit`` bytes, open for reading; ``error`` for anything else that the path leads to,
    and for an OSError while it is read."""
    try:
        # Looked at before it is opened, which alone can rewind a tape; and after, for what took its place meanwhile.
        refusal = _refusal(os.stat(path), what, limit)
        if refusal is None:
            with open(path, "rb", opener=_without_waiting) as stream:
                refusal = _refusal(os.fstat(stream.fileno()), what, limit)
                if refusal is None:
                    yield stream
                    return
    except OSError as exc:
        if is_address(path):
            raise error(f"{shown(path)}: an address, not a file", hint=next_step(path)) from exc
        raise error(f"{path}: {why(exc)}", hint=hint or "check the path") from exc
    raise error(f"{path}: {refusal}", hint=hint or "name another file")


def entries(folder: Path, hint: str) -> list[Path]:
    """What lies in a folder, sorted; UsageError where it is missing, none, or not to be read."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError as exc:
        raise UsageError(f"{shown(folder)}: no such folder", hint=hint) from exc
    except NotADirectoryError as exc:
        raise UsageError(f"{folder}: a file, not a folder", hint=hint) from exc
    except OSError as exc:
        raise UsageError(f"{folder}: {why(exc)}", hint=hint) from exc


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody writes to is opened at once: it is refused afterwards."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refusal(found: os.stat_result, what: str, limit: int | None) -> str | None:
    """Why this is not read, or None."""
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_it, name in _KINDS if is_it(found.st_mode)), "no file")
        return f"{kind}, not {what}"
    if limit is not None and found.st_size > limit:
        return f"{found.st_size:,} bytes, more than the {limit:,} that {what} may have"
    return None


def _read(stream: BinaryIO, count: int) -> bytes:
    """Up to ``count`` bytes; what has none at the moment, as a kernel's log, has none at all."""
    found = bytearray()
    while chunk := stream.read(min(_CHUNK, count - len(found))):  # read(count) would take that much memory first
        found += chunk
    return bytes(found)
