"""Lines of a user's forward, in the stack traces that torch keeps of every operator."""

from __future__ import annotations

import re
from pathlib import Path

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NOT_THEIRS = ("/torch/", "/edgevit/export/", "<eval_with_key>")


def line_in(trace: str) -> str:
    """ "model.py:42", the innermost line that is not torch's where there is one; "" of no trace."""
    frames = [(match["file"], match["line"]) for match in _FRAME.finditer(trace)]
    theirs = [each for each in frames if not any(part in each[0] for part in _NOT_THEIRS)] or frames
    return f"{Path(theirs[-1][0]).name}:{theirs[-1][1]}" if theirs else ""
