"""A module run in one precision, whatever its forward says about precision.

Forwards name types in many ways: ``.float()``, ``dtype=torch.float32``, a mask from numpy, an autocast block, a buffer
that is no buffer. In a float64 run each would be a rounding in what the artifact's error is measured against, or an
operator over two types, which torch refuses, or (attention with a float32 mask, torch 2.13) computes wrongly without a
word. In a float32 run half precision would be one that nobody asked for: an artifact's precision is ``--precision``. So
calls are rewritten as they are made, at both doors: where Python calls torch, and where the dispatcher meets what
compiled code calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from edgevit.models.eager.copying import WIDE, copied
from edgevit.models.eager.watching import Watching

Types = Mapping[torch.dtype, torch.dtype]
_FULL: Types = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_TYPELESS = frozenset({bool, int, float, str, type(None), torch.Size, torch.device, torch.layout, torch.memory_format})
_CASTS = {"float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}  # methods that name their type


def doubled(module: nn.Module) -> nn.Module:
    """A float64 copy in eval mode, for runs under ``promoted``."""
    # By way of train mode: models that cache gathered tables in eval mode drop a cache of the old dtype there.
    return copied(module, widen=True).double().train().eval()


@contextlib.contextmanager
def promoted() -> Iterator[None]:
    """While open, torch computes in float64 where it is told, or used, to compute in float32 or less."""
    types = _Types(WIDE)
    with default_dtype(torch.float64), _AtTheDispatcher(types), _InPython(types):
        yield


@contextlib.contextmanager
def in_full(*, traced: bool = False) -> Iterator[_Types]:
    """While open, torch computes in float32 where it is told to compute in less; what is yielded says if it was.

    ``traced`` leaves the dispatcher to a tracer.
    """
    types = _Types(_FULL)
    with _without_autocast(types), contextlib.nullcontext() if traced else _AtTheDispatcher(types), _InPython(types):
        yield types


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors and layers that code makes without saying of what type are ``dtype`` while this is open."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _without_autocast(types: _Types) -> Iterator[None]:
    """Autocast blocks do nothing. There is no mode for this: tracers record the block itself, not what it casts."""

    def enter(self: autocast) -> autocast:
        types.changed |= bool(self._enabled) and self.device == "cpu"
        return self

    before = autocast.__enter__, autocast.__exit__
    autocast.__enter__, autocast.__exit__ = enter, lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        autocast.__enter__, autocast.__exit__ = before  # type: ignore[method-assign]


@dataclass
class _Types:
    """The type that stands in for another, and whether one had to."""

    instead: Types
    changed: bool = field(default=False)

    def of(self, value: Any) -> Any:
        """The arguments of a call, in the types that stand in for theirs."""
        # Nearly always nothing changes, and to see that by tree_map took longer than the operators of a small model.
        if all(map(self._stays, value.values() if isinstance(value, dict) else value)):
            return value
        return tree_map(self._one, value)

    def _stays(self, leaf: Any) -> bool:
        kind = type(leaf)
        if kind is Tensor or kind is nn.Parameter:
            return leaf.dtype not in self.instead
        return kind in _TYPELESS or (kind in (list, tuple) and all(map(self._stays, leaf)))

    def _one(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype) and leaf in self.instead:
            self.changed = True
            return self.instead[leaf]
        if isinstance(leaf, Tensor) and leaf.dtype in self.instead and not leaf.is_quantized:
            self.changed = True
            return leaf.to(self.instead[leaf.dtype])
        return leaf


class _InPython(TorchFunctionMode):
    """Calls as Python makes them: the types asked for, and operators that check types before they dispatch."""

    def __init__(self, types: _Types) -> None:
        super().__init__()
        self.types = types

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cast = _CASTS.get(getattr(func, "__name__", ""))
        if cast is not None and args and isinstance(args[0], Tensor) and not args[0].is_complex():
            return args[0].to(*self.types.of((cast,)))
        return func(*self.types.of(args), **self.types.of(kwargs or {}))


class _AtTheDispatcher(Watching):
    """Calls of TorchScript, of autograd functions and of operators made of others."""

    def __init__(self, types: _Types) -> None:
        super().__init__()
        self.types = types

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*self.types.of(args), **self.types.of(kwargs))
