"""How the command line shows things: data on stdout, progress and advice on stderr."""

from __future__ import annotations

import io
import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from edgevit.errors import UsageError
from edgevit.home import home
from edgevit.printable import as_json, printable
from edgevit.registry import own_version
from edgevit.terminal import unguarded

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table


def stdout() -> Console:
    """A console for data. Piped output is 160 columns wide, so that tables survive ``| less`` and ``> file``."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    return Console(file=unguarded(sys.stdout), highlight=False, emoji=False, width=width)


def stderr() -> Console:
    """A console for progress and advice."""
    from rich.console import Console

    return Console(file=unguarded(_VOICE.stderr or sys.stderr), highlight=False, emoji=False, soft_wrap=True)


LOUDNESS = {
    "quiet": "Only data and errors.",
    "verbose": "Also what is done in detail, with the seconds since the start.",
}


@dataclass
class _Voice:
    """How much is said on stderr: ``level`` is "" or one of ``LOUDNESS``; ``since`` the start, as time.monotonic();
    ``stderr`` where it is said while ``sys.stderr`` is left to others."""

    level: str = ""
    since: float = field(default_factory=time.monotonic)
    stderr: TextIO | None = None


_VOICE = _Voice()


def speak(level: str) -> None:
    """From here on say less or more: "quiet", "verbose", or "" for neither. UsageError for both at once."""
    if level and _VOICE.level not in ("", level):
        raise UsageError("--quiet and --verbose contradict each other", hint="give one of them")
    first, _VOICE.level = _VOICE.level != level, level
    if first:
        detail(f"edgevit {own_version()} on {platform.platform(terse=True)}, Python {platform.python_version()}")
        detail(f"keys and caches are in {home()}")


def say(sentence: str) -> None:
    """One line of advice or progress; not with ``--quiet``."""
    if _VOICE.level != "quiet":
        _print(stderr(), sentence)


def detail(sentence: str) -> None:
    """One line for ``--verbose``."""
    if _VOICE.level == "verbose":
        _print(stderr(), sentence)


def fail(sentence: str) -> None:
    """One line about an error, which nothing silences."""
    _print(stderr(), sentence)


def _print(console: Console, sentence: str) -> None:
    passed = f"{time.monotonic() - _VOICE.since:6.1f} s  " if _VOICE.level == "verbose" else ""
    console.print(passed + printable(sentence), markup=False)


def _step(shown: Progress, sentence: str) -> None:
    """A line for a stage that begins: where no bar shows it, or all is to be said."""
    if _VOICE.level == "verbose" or (_VOICE.level != "quiet" and not shown.console.is_terminal):
        _print(shown.console, f"{sentence} …")


def line(text: str) -> None:
    """One line of data."""
    print(printable(text))


def emit_json(value: Any) -> None:
    """``value`` as JSON on stdout. NaN and infinity become null: JSON has neither."""
    print(as_json(value, ascii_only=not unicode(sys.stdout)))


def unicode(stream: TextIO) -> bool:
    """Whether it takes every character."""
    return str(getattr(stream, "encoding", None) or "").lower().startswith("utf")


def tell(event: str, sentence: str, **fields: Any) -> None:
    """What happens in a verb that goes on until it is ended, as a line of advice."""
    say(sentence)


def tell_json(event: str, sentence: str = "", **fields: Any) -> None:
    """The same for ``--json``: an object a line on stdout, ``{"at", "event", "text", …}``, seen at once."""
    record = {"at": datetime.now(timezone.utc).isoformat(), "event": event, "text": sentence, **fields}
    print(as_json(record, ascii_only=not unicode(sys.stdout), indent=None), flush=True)


Tell = Callable[..., None]
"""``tell(event, sentence, **fields)``: ``tell`` or ``tell_json``."""


def telling(json: bool) -> Tell:
    """How a verb that goes on tells what happens."""
    return tell_json if json else tell


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A plain table on stdout; columns of numbers are right-aligned."""
    stdout().print(_table(columns, rows, title))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title and Text(printable(title)), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    body = [[printable(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = all(not row[index] or row[index][0].isdigit() or row[index] in "—" for row in body)
        shown.add_column(column, justify="right" if numeric and body else "left", overflow="fold")
    for row in body:
        shown.add_row(*map(Text, row))
    return shown


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Aligned ``name  value`` lines on stdout."""
    pairs = [(printable(name), printable(value)) for name, value in pairs]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{name:<{width}}  {value}" if name or value else "")


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A progress display on stderr for long work: bars on a terminal, nothing when piped."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    quiet = _VOICE.level == "quiet"
    with Progress(*columns, console=stderr(), transient=True, disable=quiet) as shown:
        shown.add_task(printable(title), total=None)
        yield shown
    detail(f"{title}: done")


@contextmanager
def overheard() -> Iterator[None]:
    """What torch, a converter or the model's own code prints and logs meanwhile is no data and no word of ours: it is
    shown on stderr with ``--verbose``, and else nowhere. What ends the work is raised, and said by us."""
    loud = _VOICE.level == "verbose"
    heard = sys.stderr if loud else io.StringIO()
    before, logged = _VOICE.stderr, logging.root.manager.disable
    _VOICE.stderr = before or sys.stderr
    try:
        with redirect_stdout(heard), redirect_stderr(heard), warnings.catch_warnings():
            if not loud:
                logging.disable(logging.CRITICAL)  # torch's handlers keep the stream that they were made with
                warnings.simplefilter("ignore")
            yield
    finally:
        _VOICE.stderr = before
        logging.disable(logged)


class Stages:
    """``stages(name, fraction)``: one line per stage as it starts, and a bar within it on a terminal."""

    def __init__(self, shown: Progress, prefix: str) -> None:
        self.shown, self.prefix = shown, printable(prefix)
        self.task = shown.task_ids[0]
        self.current = ""

    def __call__(self, stage: str, fraction: float | None = None) -> None:
        stage = printable(stage)
        if stage != self.current:
            _step(self.shown, f"{self.prefix}: {stage}")
        self.current = stage
        self.shown.update(
            self.task,
            description=f"{self.prefix}: {stage}",
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
        )


class Rows:
    """``rows(who, stage, fraction)``: a bar for everyone on a terminal, a line per stage when piped."""

    def __init__(self, shown: Progress) -> None:
        self.shown = shown
        self.tasks: dict[str, Any] = {}
        self.stages: dict[str, str] = {}

    def __call__(self, who: str, stage: str, fraction: float | None = None) -> None:
        who, stage = printable(who), printable(stage)
        if self.stages.get(who) != stage:
            _step(self.shown, f"{who}: {stage}")
        self.stages[who] = stage
        if who not in self.tasks:
            self.tasks[who] = self.shown.add_task(who, total=None)
        total = None if fraction is None else 1.0
        self.shown.update(self.tasks[who], description=f"{who}: {stage}", total=total, completed=fraction or 0.0)


def live(frames: Iterable[tuple[Sequence[str], Iterable[Sequence[str]], Sequence[str]]]) -> None:
    """Show (columns, rows, lines below) again and again, in place on a terminal, until the frames or the user end."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with suppress(KeyboardInterrupt), Live(console=stdout(), auto_refresh=False) as shown:
        for columns, rows, lines in frames:
            shown.update(Group(_table(columns, rows), *(Text(printable(one)) for one in lines)), refresh=True)


def si(value: float | None, unit: str = "") -> str:
    """1234567 -> "1.23 M"; decimal prefixes."""
    if value is None:
        return "—"
    for bound, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def counted(count: int, noun: str) -> str:
    """ "1 row", "2 rows", "1,300 images"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits, or a dash."""
    return "—" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def figure(value: float) -> str:
    """A held-out figure: shares in percent, what is above them (PSNR) in dB."""
    return f"{value:.2%}" if value <= 1 else f"{value:.2f} dB"


class Epochs:
    """``epochs(epoch, epochs, loss, figure)``: a bar on a terminal; a line every tenth of the run when piped."""

    def __init__(self, shown: Progress, title: str) -> None:
        self.shown, self.title = shown, printable(title)
        self.task = shown.task_ids[0]

    def __call__(self, epoch: int, epochs: int, loss: float, held_out: float | None) -> None:
        sentence = f"{self.title}: epoch {epoch}/{epochs}, loss {loss:.3f}"
        if held_out is not None:
            sentence += f", held-out {figure(held_out)}"
        self.shown.update(self.task, description=sentence, total=epochs, completed=epoch)
        if epoch == epochs or epoch % max(1, epochs // 10) == 0:
            _step(self.shown, sentence)
