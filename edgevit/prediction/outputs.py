"""Where answers go: lines for people, JSON, JSON lines, CSV, each written as it comes, so that none is lost; and the
model's own outputs in an .npz."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import numpy as np

from edgevit import render
from edgevit.artifact.files import replaced
from edgevit.artifact.manifest import Array
from edgevit.disk import writing
from edgevit.errors import UsageError
from edgevit.prediction.album import Album
from edgevit.prediction.results import Failure, Prediction, Result
from edgevit.printable import as_json, printable
from edgevit.terminal import unguarded

STDOUT = "-"
SYNC_S = 1.0  # how long an answer may be on its way to the disk
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # what a spreadsheet computes, as wide letters too


class Output(Protocol):
    """Takes results one by one. ``end`` completes it after the last; ``close`` lets it go, however it ended."""

    def write(self, result: Result) -> None: ...
    def end(self) -> None: ...
    def close(self) -> None: ...


class Lines:
    """Lines for people: answers on stdout, failures on stderr."""

    def write(self, result: Result) -> None:
        (render.fail if isinstance(result, Failure) else render.line)(result.line())

    def end(self) -> None:
        """Nothing is kept back."""

    close = end


class Json:
    """One list on stdout, of the records as they come."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, result: Result) -> None:
        text = as_json(result.record(), ascii_only=not render.unicode(sys.stdout))
        print(("," if self.count else "[") + "\n  " + text.replace("\n", "\n  "), end="")
        self.count += 1

    def end(self) -> None:
        print("\n]" if self.count else "[]")

    def close(self) -> None:
        """It is no file."""


class File:
    """A text file that is opened when the first answer is there, and flushed after each; "-" is stdout."""

    def __init__(self, path: str, *, force: bool) -> None:
        self.path, self.force = path, force
        self.stream: TextIO | None = None
        self.synced = time.monotonic()

    def write(self, text: str) -> None:
        if self.path == STDOUT:
            stream = unguarded(sys.stdout)  # the text is printable, and its lines end with CR LF
            stream.write(text)
            stream.flush()
            return
        with writing(Path(self.path)):
            self.stream = self.stream or self._opened()
            self.stream.write(text)
            self.stream.flush()
            if time.monotonic() - self.synced > SYNC_S:
                self._sync()

    def _opened(self) -> TextIO:
        # newline: the text says itself how its lines end. What took the name meanwhile is not written over.
        plain = not os.path.exists(self.path) or os.path.isfile(self.path)
        return open(self.path, "x" if plain and not self.force else "w", encoding="utf-8", newline="")

    def _sync(self) -> None:
        self.synced = time.monotonic()
        if self.stream is not None and os.path.isfile(self.path):
            os.fsync(self.stream.fileno())

    def close(self) -> None:
        with writing(Path(self.path)):
            if self.stream is not None:
                self._sync()
                self.stream.close()


class JsonLines:
    """A line of JSON for each picture: the record of ``--json`` with its ``frame`` and ``seconds``, null for a
    picture that is in no video."""

    def __init__(self, file: File) -> None:
        self.file = file

    def write(self, result: Result) -> None:
        record = {"image": result.image, "frame": None, "seconds": None, **result.record()}
        self.file.write(as_json(record, indent=None) + "\n")

    def end(self) -> None:
        self.file.write("")  # a file without answers is there, and empty

    def close(self) -> None:
        self.file.close()


class Csv:
    """RFC 4180, a row for each picture, or for each thing that was found in it: ``columns`` of the task, or the error.
    Text that a spreadsheet would take for a formula has an apostrophe before it."""

    def __init__(self, file: File, columns: Sequence[str]) -> None:
        self.file = file
        self.columns = ("image", "frame", "seconds", *columns, "error")
        self.begun = False

    def write(self, result: Result) -> None:
        if not self.begun:
            self._row(self.columns)
        self.begun = True
        for row in result.rows():
            self._row([row.get(name, "") for name in self.columns])

    def _row(self, cells: Iterable[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, quoting=csv.QUOTE_NONNUMERIC).writerow([_cell(value) for value in cells])
        self.file.write(line.getvalue())

    def end(self) -> None:
        if not self.begun:
            self._row(self.columns)

    def close(self) -> None:
        self.file.close()


class Npz:
    """The model's own outputs, (pictures, …) by name, in one .npz: what another model takes with ``--inputs``. Written
    after the last; a picture that failed has no row."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: dict[str, list[Array]] = {}

    def write(self, result: Result) -> None:
        if not isinstance(result, Prediction) or result.outputs is None:
            return
        for name, row in result.outputs.items():
            kept = self.rows.setdefault(name, [])
            if kept and kept[0].shape != row.shape:
                raise UsageError(
                    f"{result.subject()}: {name} is {_shape(row)}, that of the pictures before {_shape(kept[0])}",
                    hint="pictures of one size go into one .npz: ask about the others apart",
                )
            kept.append(np.array(row))

    def end(self) -> None:
        with writing(self.path), replaced(self.path) as scratch, open(scratch, "wb") as file:
            np.savez(file, **{name: np.stack(rows) for name, rows in self.rows.items()})  # type: ignore[arg-type]

    def close(self) -> None:
        """It is written whole, or not."""


def _shape(row: Array) -> str:
    return "×".join(map(str, row.shape)) or "a number"


def _cell(value: Any) -> Any:
    """A number as it is; anything else as text that is no formula and has no line ends."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = printable(str(value).lower() if isinstance(value, bool) else str(value))
        return f"'{text}" if text.startswith(_FORMULA) else text
    return value if value == value and abs(value) != float("inf") else ""


@dataclass(frozen=True)
class Wanted:
    """Where answers are to go: files for each format, "-" being stdout, whether a JSON list is asked for, and where
    pictures are drawn to; ``npz`` is for the model's own outputs."""

    csv: str | None = None
    jsonl: str | None = None
    json: bool = False
    force: bool = False
    album: Album | None = None
    npz: str | None = None

    @classmethod
    def of(cls, csv: str | None, jsonl: str | None, out: str | None, *, json: bool, force: bool) -> Wanted:
        """With ``out`` by its ending. UsageError for one of no known ending, and for a contradiction."""
        album = Album.of(out, force=force)
        if out is not None and album is None:
            ending = Path(out).suffix.lower()
            if ending == ".npz":
                return replace(cls.of(csv, jsonl, None, json=json, force=force), npz=out)
            if ending not in (".csv", ".jsonl"):
                raise UsageError(
                    f"-o {out}: what ends so is not written",
                    hint="OUT.csv or OUT.jsonl; of pictures OUT.png or a folder; the model's own outputs OUT.npz",
                )
            if (csv if ending == ".csv" else jsonl) is not None:
                raise UsageError(f"-o {out} and --{ending[1:]} contradict each other", hint="give one of them")
            csv, jsonl = (out, jsonl) if ending == ".csv" else (csv, out)
        if [csv, jsonl, "-" if json else None].count(STDOUT) > 1:
            raise UsageError("standard output takes one format", hint="give the others a file")
        return cls(csv, jsonl, json, force, album)

    @property
    def files(self) -> list[str]:
        """Those that are no stdout."""
        return [path for path in (self.csv, self.jsonl, self.npz) if path not in (None, STDOUT) and path is not None]

    def check(self, named: Sequence[str]) -> None:
        """UsageError for a file that exists, or is one of the pictures."""
        if self.album is not None:
            self.album.check(named)
        for path in self.files:
            if os.path.isdir(path):
                raise UsageError(f"{path} is a folder", hint="name a file in it")
            if any(os.path.exists(one) and os.path.exists(path) and os.path.samefile(one, path) for one in named):
                raise UsageError(f"{path} is one of the inputs", hint="name another file")
            if os.path.isfile(path) and not self.force:
                raise UsageError(f"{path} exists", hint="choose another name, or replace it with --force")
        if self.csv in self.files and self.jsonl == self.csv:
            raise UsageError(f"{self.csv} cannot be both CSV and JSON lines", hint="name two files")

    def require_seen(self, draws: bool) -> None:
        """UsageError where pictures are wanted of answers that cannot be seen."""
        if self.album is not None and not draws:
            hint = "-o OUT.csv or OUT.jsonl keeps them, and OUT.npz all outputs"
            raise UsageError(f"-o {self.album.path}: this model's answers cannot be drawn", hint=hint)

    def drawn(self, results: Iterable[Result]) -> Iterable[Result]:
        """The results, drawn where pictures are wanted."""
        return results if self.album is None else self.album.drawn(results)

    def outputs(self, columns: Sequence[str]) -> Outputs:
        """All of them, tables having these columns; lines for people where there is nothing else."""
        found: list[Output] = []
        columns = (*columns, *(("picture",) if self.album else ()))
        if self.csv is not None:
            found.append(Csv(File(self.csv, force=self.force), columns))
        if self.jsonl is not None:
            found.append(JsonLines(File(self.jsonl, force=self.force)))
        if self.json:
            found.append(Json())
        if self.npz is not None:
            found.append(Npz(self.npz))
        return Outputs(found or [Lines()])


class Outputs:
    """Several at once, in a ``with``. What ends before its first result leaves no output, and no file replaced."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self.outputs, self.count = outputs, 0

    def write(self, result: Result) -> None:
        self.count += 1
        for one in self.outputs:
            one.write(result)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for one in self.outputs:
                stack.callback(one.close)
                if kind is None or self.count:
                    stack.callback(one.end)
