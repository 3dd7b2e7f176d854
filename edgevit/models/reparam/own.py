"""The module tree, and the folding of blocks that know how: those that define ``fused(self) -> nn.Module``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.models.eager.wrappers import hooked


def replace_module(root: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put ``new`` at ``path`` below ``root`` and return the root, which is ``new`` itself for the empty path."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, new)
    return root


def batch_norms(root: nn.Module) -> dict[str, nn.Module]:
    """Every BatchNorm in the tree (of any class derived from torch's), by path."""
    return {path: module for path, module in root.named_modules() if isinstance(module, _BatchNorm)}


def fold_own_blocks(root: nn.Module, folded: Counter[str]) -> nn.Module:
    """Replace, children first, every block that defines ``fused()`` by what it returns.

    A block at several places stays one block. Its class may name what it folds in ``fold_kinds``: kinds that
    mention a "bn" count the BatchNorms that went, others count once. A block with a hook inside stays as it is.
    """
    return _fold(root, folded, {})


def _fold(module: nn.Module, folded: Counter[str], seen: dict[int, tuple[nn.Module, nn.Module]]) -> nn.Module:
    if id(module) in seen:
        return seen[id(module)][1]
    for name, child in list(module.named_children()):
        new = _fold(child, folded, seen)
        if new is not child:
            _replace_everywhere(module, name, child, new)
    result = _fused(module, folded)
    seen[id(module)] = (module, result)  # the original is kept too: its id must not be used again
    return result


def _replace_everywhere(parent: nn.Module, name: str, child: nn.Module, new: nn.Module) -> None:
    """named_children lists a child once even where its parent holds it under two names."""
    for held, module in list(parent._modules.items()):
        if module is child or held == name:
            setattr(parent, held, new)


def _fused(module: nn.Module, folded: Counter[str]) -> nn.Module:
    method: Any = getattr(type(module), "fused", None)
    if not callable(method) or any(map(hooked, module.modules())):
        return module
    norms = len(batch_norms(module))
    result = method(module)
    if not isinstance(result, nn.Module):
        raise TypeError(f"{type(module).__name__}.fused() returned {type(result).__name__}, not a module")
    if result is not module:
        gone = norms - len(batch_norms(result))
        for kind in getattr(type(module), "fold_kinds", ()) or (type(module).__name__,):
            folded[kind] += gone if "bn" in kind else 1
    return result
