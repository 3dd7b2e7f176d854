"""The report: every artifact and its newest measurements as one self-contained page, or as Markdown, CSV or JSON."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgevit import render as terminal
from edgevit.artifact.claim import claimed
from edgevit.artifact.files import write_atomically
from edgevit.disk import writing
from edgevit.errors import UnknownName, UsageError
from edgevit.profiles.report.collect import Collection, collect

FORMATS = ("html", "md", "csv", "json")


def report(
    folders: Sequence[Path | str], out: Path | str | None = None, format: str = "html", *, title: str | None = None
) -> Path | str:
    """The report of all artifacts in ``folders`` (artifacts, or parents of them), as "html", "md", "csv" or "json".

    Written to ``out``, which is then returned; without ``out`` the text itself is returned. Only html needs plotly.
    Raises UsageError when there is no artifact or ``out`` cannot be written, UnknownName, MissingDependency.
    """
    if format not in FORMATS:
        raise UnknownName("report format", format, FORMATS)
    if out is not None and os.path.isdir(out):
        raise UsageError(f"{out} is a folder", hint=f"name a file: -o {Path(out) / f'report.{format}'}")
    if out is None:
        return _written(folders, format, title)
    path = Path(out)
    with claimed(path, least=0):
        text = _written(folders, format, title)
        with writing(path, UsageError):
            write_atomically(path, text)
    return path


def _written(folders: Sequence[Path | str], format: str, title: str | None) -> str:
    found = collect([Path(folder) for folder in folders])
    for sentence in (*found.problems, found.nothing_shown):
        if sentence:
            terminal.say(sentence)
    return _render(format)(found, title)


def _render(format: str) -> Callable[[Collection, str | None], str]:
    """The writer of one format. Imported here: only the page needs the plotting library."""
    if format == "html":
        from edgevit.profiles.report.page import render

        return lambda found, title: render(found, title=title, now=datetime.datetime.now(datetime.timezone.utc))
    from edgevit.profiles.report.tables import as_json, comma_separated, markdown

    writers: Mapping[str, Callable[[Collection], str]] = {"md": markdown, "csv": comma_separated, "json": as_json}
    return lambda found, title: writers[format](found)
