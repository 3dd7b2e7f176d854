"""Lines of a user's own code, in stack traces: those that torch keeps of every operator, and those of errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from traceback import FrameSummary

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NOT_THEIRS = ("/torch/", "/edgevit/export/", "/edgevit/models/eager/", "<eval_with_key>")


def is_theirs(file: str) -> bool:
    """Whether a frame of that file is neither torch's nor of what traces and watches models here."""
    return not any(part in file for part in _NOT_THEIRS)


def line_in(trace: str) -> str:
    """ "model.py:42", the innermost line that is theirs where there is one; "" of no trace."""
    frames = [(match["file"], match["line"]) for match in _FRAME.finditer(trace)]
    theirs = [each for each in frames if is_theirs(each[0])] or frames
    return f"{Path(theirs[-1][0]).name}:{theirs[-1][1]}" if theirs else ""


def line_of(frames: Sequence[FrameSummary]) -> str | None:
    """The same of frames, the innermost last; None where none is theirs."""
    own = next((frame for frame in reversed(frames) if is_theirs(frame.filename)), None)
    return f"{Path(own.filename).name}:{own.lineno}" if own else None
