"""How a command ends: every failure in one sentence with a next step, and the exit code of the first."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from edgevit import render
from edgevit.errors import EdgeVitError


def finish(results: Sequence[Any]) -> None:
    """Show every failed item's error; end with the exit code of the first."""
    failed = [result for result in results if result.error]
    for result in failed:
        show_error(result.error, subject=result.subject if len(results) > 1 else None)
    if failed:
        raise typer.Exit(failed[0].error.exit_code)


def show_error(error: EdgeVitError, *, subject: str | None = None) -> None:
    """``error: one sentence`` and, below it, the next step; on stderr. EDGEVIT_DEBUG=1 adds the traceback."""
    if os.environ.get("EDGEVIT_DEBUG"):
        import traceback

        traceback.print_exception(error)
        if sys.version_info < (3, 11):  # whose tracebacks have no notes
            print(*getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    render.fail(f"error: {f'{subject}: ' if subject else ''}{error}")
    if error.hint:
        render.fail(f"  next: {error.hint}")
