"""Booleans, integers and real numbers as the program has them.

coremltools gives many a result another kind than PyTorch does: ``zeros_like`` of booleans is boolean whatever dtype is
asked for, ``full_like`` takes the kind of its number, quotients of integers become real. What reads such a result then
fails, or computes something else: attention takes a boolean mask for what is allowed and a real one for what is added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from edgevit.export.coreml.quiet import TranscriptionContext, mb, types

_REAL, _WHOLE, _BOOLEAN = "fp32", "int32", "bool"


@contextlib.contextmanager
def kept(current: Callable[[], Any]) -> Iterator[None]:
    """While coremltools translates, the result of every node is cast to the kind that the program gives it.

    ``current`` tells the node in translation.
    """
    add = TranscriptionContext.add

    def typed(self: Any, var: Any, torch_name: str | None = None, override: bool = False) -> None:
        node, name = current(), torch_name or getattr(var, "name", None)
        if node is not None and name == node.name and (wanted := _missed(node, var)):
            var, torch_name = mb.cast(x=var, dtype=wanted, name=f"{name}_as_{wanted}"), name
        add(self, var, torch_name, override)

    TranscriptionContext.add = typed
    try:
        yield
    finally:
        TranscriptionContext.add = add


def _missed(node: Any, var: Any) -> str | None:
    """The kind that the program has where coremltools has another."""
    value, dtype = (node.meta or {}).get("val"), getattr(var, "dtype", None)
    if not isinstance(value, torch.Tensor) or dtype is None:
        return None
    found = _BOOLEAN if types.is_bool(dtype) else _WHOLE if types.is_int(dtype) else _REAL
    wanted = _kind(value.dtype)
    # pixels are real numbers in Core ML, see ``program``
    return wanted if found != wanted and not (value.dtype is torch.uint8 and found == _REAL) else None


def _kind(dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return _BOOLEAN
    return _REAL if dtype.is_floating_point else _WHOLE
