"""The command line: parse, call one function, render. Heavy modules are imported inside the verbs.

Data goes to stdout, progress and advice to stderr, and ``--json`` works everywhere. ``main`` is the only place that
catches edgevit's errors; each ends with its own exit code (``edgevit.errors``).
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from edgevit import render
from edgevit.errors import EdgeVitError
from edgevit.verbs import authority, exporting, fleet, keys, measuring, models, serving, splitting
from edgevit.verbs.outcome import show_error

app = typer.Typer(
    name="edgevit",
    help="Take vision transformers from PyTorch to the devices that run them: re-parameterise, export, prove, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the boxes would cost 100 ms at every start, for markdown that no help text has
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (models, exporting, measuring, splitting, serving, authority):
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Nothing happens before a verb."""


def main() -> None:
    """Entry point of the ``edgevit`` script."""
    try:
        app()
    except EdgeVitError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away: not worth a word
        sys.stdout = None
        sys.exit(0)
    except Exception as error:
        if os.environ.get("EDGEVIT_DEBUG"):
            raise
        render.say(f"error: internal error: {type(error).__name__}: {error}")
        render.say("  next: run it again with EDGEVIT_DEBUG=1 and report the traceback")
        sys.exit(1)


if __name__ == "__main__":
    main()
