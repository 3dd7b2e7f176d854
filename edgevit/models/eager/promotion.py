"""A module run in float64, whatever its forward says about precision.

Forwards name float32 in many ways: ``.float()``, ``dtype=torch.float32``, a mask from numpy, an autocast block, a
buffer that is no buffer. Each would be a rounding in the reference that the artifact's error is measured against, or an
operator over two types, which torch refuses, or (attention with a float32 mask, torch 2.13) computes wrongly without a
word. So calls are rewritten as they are made, at both doors: where Python calls torch, and where the dispatcher meets
what compiled code calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from edgevit.models.eager.copying import NARROW, WIDE, copied

_CASTS = frozenset({"float", "half", "bfloat16"})  # methods that name their type


def doubled(module: nn.Module) -> nn.Module:
    """A float64 copy in eval mode, for runs under ``promoted``."""
    # By way of train mode: models that cache gathered tables in eval mode drop a cache of the old dtype there.
    return copied(module, widen=True).double().train().eval()


@contextlib.contextmanager
def promoted() -> Iterator[None]:
    """While open, torch computes in float64 where it is told, or used, to compute in float32 or less."""
    with default_dtype(torch.float64), _AtTheDispatcher(), _InPython():
        yield


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors and layers that code makes without saying of what type are ``dtype`` while this is open."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _InPython(TorchFunctionMode):
    """Calls as Python makes them: the types asked for, and operators that check types before they dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _CASTS and args and isinstance(args[0], Tensor):
            return args[0].to(torch.complex128 if args[0].is_complex() else torch.float64)
        return func(*_wide(args), **_wide(kwargs or {}))


class _AtTheDispatcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls of TorchScript, of autograd functions and of operators made of others."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_wide(args), **_wide(kwargs or {}))


def _wide(value: Any) -> Any:
    return tree_map(_widened, value)


def _widened(leaf: Any) -> Any:
    if isinstance(leaf, torch.dtype):
        return WIDE.get(leaf, leaf)
    if isinstance(leaf, Tensor) and leaf.dtype in NARROW and not leaf.is_quantized:
        return leaf.to(WIDE[leaf.dtype])
    return leaf
