"""Copies of modules. What forward leaves in a module (tables, features, history) is no reason not to have one."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from edgevit.errors import Unsupported

Module = TypeVar("Module", bound=nn.Module)
WIDE = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
WIDE[torch.complex64] = torch.complex128
NARROW = frozenset(WIDE)
DEEP = 20_000  # frames: deepcopy takes six for each module inside another, Python allows a thousand


def copied(module: Module, *, memo: dict[int, Any] | None = None, widen: bool = False) -> Module:
    """A deep copy, never compiled. Tensors with a history lose it, those a tracer left behind are shared.

    ``memo`` is ``copy.deepcopy``'s. ``widen`` makes floats in plain attributes (tables, caches) float64, which
    ``double()`` of the copy would not. Unsupported, with what refused, for a module that cannot be copied.
    """
    try:
        with _Copies(widen), deep():
            found = copy.deepcopy(module, memo)
    except Exception as exc:  # an attribute of any class may refuse
        line = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise Unsupported(
            f"the model cannot be copied, and only copies of it are ever run: {line}",
            hint="give forward what it needs (locks, files, generators) from outside the module",
        ) from exc
    for inner in found.modules():
        inner._compiled_call_impl = None  # module.compile() leaves a call of the original there
    return found


@contextmanager
def deep() -> Iterator[None]:
    """Room on Python's stack for modules nested hundreds of levels deep."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEEP))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class _Copies(TorchFunctionMode):
    """Lets ``deepcopy`` have tensors that torch refuses to copy: results of operators, as old weight_norm keeps."""

    def __init__(self, widen: bool) -> None:
        super().__init__()
        self.widen = widen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and (made := self.made(args[0])) is not None:
            return args[1].setdefault(id(args[0]), made)
        return func(*args, **(kwargs or {}))

    def made(self, value: Tensor) -> Tensor | None:
        """The copy, where torch would make none or another; None leaves it to torch."""
        if isinstance(value, FakeTensor):
            return value
        if self.widen and value.dtype in NARROW and not value.is_quantized:
            return value.detach().to(WIDE[value.dtype])
        return None if value.is_leaf else value.detach().clone()
