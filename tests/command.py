"""The command without a process to start."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest

from edgevit.cli import main


def said(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What ``main`` prints, and the code it leaves with."""
    shown, told, ended = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(told),
    ):
        patch.setattr(sys, "argv", ["edgevit", *map(str, arguments)])
        try:
            main()
        except SystemExit as left:
            ended = left.code if isinstance(left.code, int) else 0
    return subprocess.CompletedProcess(arguments, ended, shown.getvalue(), told.getvalue())
