"""Where in the user's model an operator was called: its PyTorch module, and the line of the source."""

from __future__ import annotations

import re
from pathlib import Path

from torch import fx

from edgevit.export.capture import unbaked
from edgevit.export.precision import module_path

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NOT_THEIRS = ("/torch/", "/edgevit/export/", "<eval_with_key>")


def place_of(node: fx.Node, *, baked: bool = False) -> str:
    """ "in blocks.0.attn, model.py:42"; "in the model" where nothing more is known."""
    path = module_path(node)
    where = f"in {(unbaked(path) if baked else path) or 'the model'}"
    frames = [(m["file"], m["line"]) for m in _FRAME.finditer(str(node.meta.get("stack_trace") or ""))]
    theirs = [each for each in frames if not any(part in each[0] for part in _NOT_THEIRS)] or frames
    return f"{where}, {Path(theirs[-1][0]).name}:{theirs[-1][1]}" if theirs else where


def named(node: fx.Node, *, baked: bool = False) -> str:
    """ "grid_sampler.default (in blocks.0.attn, model.py:42)"."""
    return f"{str(node.target).removeprefix('aten.')} ({place_of(node, baked=baked)})"
