"""Copies of modules. What forward leaves in a module (tables, features, history) is no reason not to have one."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from edgevit.errors import Unsupported

Module = TypeVar("Module", bound=nn.Module)
WIDE = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
WIDE[torch.complex64] = torch.complex128
_TABLES = (dict, OrderedDict, set)
DEEP = 20_000  # frames: deepcopy takes six for each module inside another, Python allows a thousand


def copied(module: Module, *, memo: dict[int, Any] | None = None, widen: bool = False) -> Module:
    """A deep copy, never compiled. Tensors with a history lose it, those a tracer left behind are shared.

    ``memo`` is ``copy.deepcopy``'s. ``widen`` makes floats in plain attributes (tables, caches) float64, which
    ``double()`` of the copy would not. Unsupported, with what refused, for a module that cannot be copied.
    """
    memo = {} if memo is None else memo
    _foresee(module, memo)
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
        places: list[dict[Any, Any]] = [inner.__dict__, inner._forward_hooks, inner._forward_pre_hooks]
        for held in places:
            for name, value in list(held.items()):
                if isinstance(value, FunctionType):
                    held[name] = _rebound(value, memo)
    return found


def _foresee(module: nn.Module, memo: dict[int, Any]) -> None:
    """Copies of what ``deepcopy`` takes longest over though it is plain: empty tables of hooks, eight in a module, and
    parameters, copied as they copy themselves. An export copies its model about ten times."""
    for inner in module.modules():
        for value in vars(inner).values():
            if type(value) in _TABLES and not value and id(value) not in memo:
                memo[id(value)] = type(value)()
        for parameter in inner._parameters.values():
            if type(parameter) is nn.Parameter and parameter.is_leaf and id(parameter) not in memo:
                made = parameter.data.clone(memory_format=torch.preserve_format)
                memo[id(parameter)] = nn.Parameter(made, parameter.requires_grad)


def _rebound(value: Any, memo: Mapping[int, Any]) -> Any:
    """A function that closes over parts of the original (a hook that fills its dict of features) over the copy's.

    ``deepcopy`` shares functions: the copy would write into the original, and read what it never wrote.
    """
    if isinstance(value, MethodType) and id(value.__self__) in memo:
        return MethodType(value.__func__, memo[id(value.__self__)])
    if not isinstance(value, FunctionType) or not value.__closure__:
        return value if isinstance(value, FunctionType | type) else memo.get(id(value), value)
    held = [cell.cell_contents if cell != CellType() else None for cell in value.__closure__]
    bound = [_rebound(content, memo) if content is not value else content for content in held]
    if all(new is old for new, old in zip(bound, held, strict=True)):
        return value
    cells = tuple(CellType(content) for content in bound)
    made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
    made.__kwdefaults__ = value.__kwdefaults__
    return made


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
        if self.widen and value.dtype in WIDE and not value.is_quantized:
            return value.detach().to(WIDE[value.dtype])
        return None if value.is_leaf else value.detach().clone()
