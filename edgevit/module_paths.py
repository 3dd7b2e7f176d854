"""Paths of PyTorch modules, ``blocks.0.attn.q``, as built graphs and their layers carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """``path`` of the module, "" for the model itself; ``line`` of the source, "model.py:42", "" where not known."""

    path: str = ""
    line: str = ""

    def __str__(self) -> str:
        """ "in blocks.0.attn, model.py:42"; "in the model" where nothing more is known."""
        where = f"in {self.path or 'the model'}"
        return f"{where}, {self.line}" if self.line else where


def shared_module(modules: Sequence[str]) -> str:
    """The innermost module that holds all of them: blocks.0.attn for its q and k; "" is the model itself."""
    paths = [module.split(".") for module in modules if module]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def module_of(node: str) -> str | None:
    """PyTorch module path in a node name of ours, ``blocks.0.mlp.fc1/Gemm``; "" for the model's own, None for others.

    Engines that fuse or convert nodes keep such a name as a prefix of theirs.
    """
    path, slash, _ = node.partition("/")
    return None if not slash else "" if path == "model" else path
