"""The command line: parse, call one function, render. Heavy modules are imported inside the verbs.

Data goes to stdout, progress and advice to stderr, and ``--json`` works everywhere. ``main`` is the only place that
catches edgevit's errors; each ends with its own exit code (``edgevit.errors``).
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from edgevit import render
from edgevit.disk import in_words
from edgevit.errors import EdgeVitError, UsageError
from edgevit.terminal import guard
from edgevit.verbs import (
    authority,
    exporting,
    fleet,
    keys,
    measuring,
    models,
    predicting,
    quantizing,
    serving,
    settings,
    splitting,
)
from edgevit.verbs.help import Verbs
from edgevit.verbs.outcome import show_error

app = Verbs(
    name="edgevit",
    help="Take vision transformers from PyTorch to the devices that run them: re-parameterise, export, prove, measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the boxes would cost 100 ms at every start, for markdown that no help text has
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (models, quantizing, exporting, predicting, measuring, splitting, serving, authority):
    for verb, short_help in group.VERBS:
        app.command(short_help=short_help)(verb)
fleet.fleet.add_typer(authority.ca, short_help="The fleet's private certificate authority.")
app.add_typer(fleet.fleet, short_help="Status, logs, certificates, simulation of a fleet.")
app.add_typer(keys.keys, short_help="Keys that sign and open code-carrying artifacts.")


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        print(f"edgevit {version('edgevit')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Defaults of options, instead of edgevit.toml's.")
    ] = None,
    no_config: Annotated[bool, typer.Option("--no-config", help="Read no edgevit.toml.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help=render.LOUDNESS["quiet"])] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help=render.LOUDNESS["verbose"])] = False,
) -> None:
    """How loud the verb is; it takes --quiet and --verbose itself, too."""
    render.speak("")
    for level, given in (("quiet", quiet), ("verbose", verbose)):
        if given:
            render.speak(level)
    if config and no_config:
        raise UsageError("--config and --no-config contradict each other", hint="give one of them")
    if not no_config and not {"-h", "--help"} & {*sys.argv}:
        settings.load(context, config)


def main() -> None:
    """Entry point of the ``edgevit`` script."""
    guard()
    # Importing torch and tracing a model make hundreds of thousands of objects that stay. To look through them for
    # garbage again and again, and once more at the end, takes a quarter of the time of an export.
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
    code: object = 1
    try:
        try:
            app(prog_name="edgevit")  # python -m edgevit is the same program
        except SystemExit as end:
            code = end.code
            if isinstance(end.__context__ and end.__context__.__cause__, KeyboardInterrupt):
                render.fail("interrupted")
            sys.stdout.flush()  # here, where it can be said that it failed
            raise
    except EdgeVitError as error:
        show_error(error)
        _end(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away: not worth a word
        _end(code)
    except MemoryError:
        render.fail("error: no memory is left")
        render.fail("  next: close other programs, or use a smaller model, batch or image size")
        _end(1)
    except OSError as error:
        if os.environ.get("EDGEVIT_DEBUG") or not error.strerror:
            raise
        show_error(in_words(error))
        _end(1)
    except Exception as error:
        if os.environ.get("EDGEVIT_DEBUG"):
            raise
        render.fail(f"error: internal error: {type(error).__name__}: {error}")
        render.fail("  next: run it again with EDGEVIT_DEBUG=1 and report the traceback")
        _end(1)


def _end(code: object) -> None:
    """What could not be written is not tried again at the end of the process."""
    with suppress(EdgeVitError, OSError):
        sys.stdout.flush()
    sys.stdout = None
    raise SystemExit(code)


if __name__ == "__main__":
    main()
