"""Paths of PyTorch modules, ``blocks.0.attn.q``, as built graphs and their layers carry them."""

from __future__ import annotations

from collections.abc import Sequence


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
