"""stdout and stderr, guarded: all that is printed is printable, in characters that they have, and a loss is said."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from edgevit.disk import why
from edgevit.errors import EdgeVitError
from edgevit.printable import printable_lines

# For terminals that know no more than ASCII.
_PLAIN = {
    "—": "-",
    "–": "-",
    "…": "...",
    "×": "x",
    "→": "->",
    "²": "^2",
    "≤": "<=",
    "≥": ">=",
    "·": "-",
    "“": '"',
    "”": '"',
}


class Stream:
    """A text stream that says in words when it cannot be written; stderr, where words go, then only loses them."""

    def __init__(self, stream: TextIO, name: str | None) -> None:
        self.stream, self.name = stream, name

    def write(self, text: str) -> int:
        with self._in_words():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._in_words():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if self.name is None:
                return
            if isinstance(exc, BrokenPipeError):  # its reader went away, which is not worth a word
                raise
            raise EdgeVitError(f"{self.name} cannot be written: {why(exc)}", hint="send it somewhere else") from exc


class Guarded(Stream):
    """The same, and what would move a terminal is shown instead."""

    def write(self, text: str) -> int:
        return super().write(printable_lines(text))

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)


class _Closed:
    """Stands for an output that was closed before the process began: only who writes to it hears of that."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def flush(self) -> None:
        """Nothing is kept back."""

    def isatty(self) -> bool:
        return False


def guard() -> None:
    """From here on stdout and stderr are guarded, and characters that they do not have are written in others."""
    codecs.register_error("edgevit.plain", _in_plain)
    out, err = sys.stdout, sys.stderr
    if not isinstance(out, Guarded):
        sys.stdout = cast(TextIO, Guarded(_plain(out or cast(TextIO, _Closed())), "standard output"))
    if not isinstance(err, Guarded):
        err = err or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # nobody hears it
        sys.stderr = cast(TextIO, Guarded(_plain(err), None))


def unguarded(stream: TextIO) -> TextIO:
    """The stream below, for what draws with escape codes of its own and makes all text in it printable."""
    stream = getattr(stream, "rich_proxied_file", stream)
    return cast(TextIO, Stream(stream.stream, stream.name)) if isinstance(stream, Guarded) else stream


def _plain(stream: TextIO) -> TextIO:
    if reconfigure := getattr(stream, "reconfigure", None):
        reconfigure(errors="edgevit.plain")
    return stream


def _in_plain(exc: UnicodeError) -> tuple[str, int]:
    if not isinstance(exc, UnicodeEncodeError):
        raise exc
    chars = exc.object[exc.start : exc.end]
    return "".join(_PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in chars), exc.end
