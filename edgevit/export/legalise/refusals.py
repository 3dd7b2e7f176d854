"""Where in the user's model an operator was called: its PyTorch module, and the line of the source."""

from __future__ import annotations

from torch import fx

from edgevit.export.capture import unbaked
from edgevit.export.precision import module_path
from edgevit.models.eager.frames import line_in
from edgevit.module_paths import Place


def place_of(node: fx.Node, *, baked: bool = False) -> Place:
    path = module_path(node)
    return Place(unbaked(path) if baked else path, line_in(str(node.meta.get("stack_trace") or "")))


def named(node: fx.Node, *, baked: bool = False) -> str:
    """ "grid_sampler.default (in blocks.0.attn, model.py:42)"."""
    return f"{str(node.target).removeprefix('aten.')} ({place_of(node, baked=baked)})"
