"""What a model returns, by name: tensors in tuples, dicts, named tuples and data classes, however nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from edgevit.errors import Unsupported
from edgevit.render import counted

_WRAP = "wrap the model so that it returns tensors, alone or in tuples, lists, dicts or data classes"


def named_outputs(result: Any, alone: str = "output") -> dict[str, Tensor]:
    """The tensors by name: one ``alone`` as is said, of a tuple ``output_0`` …, of a dict its own keys.

    Fields of data classes and named tuples are keys; what is nested has the names of its way joined by "_". None (an
    auxiliary head in eval mode) is no output. Unsupported for anything else, or where nothing is left.
    """
    if isinstance(result, Tensor):
        return {alone: _dense("output", result)}
    found: dict[str, Tensor] = {}
    for name, value in _named_leaves(result, ""):
        while not name or name in found:
            name += "_"
        found[name] = value
    if not found:
        raise Unsupported("the model returns nothing", hint=_WRAP)
    return found


def require_rows(outputs: Mapping[str, Tensor], rows: int) -> None:
    """Unsupported unless every output has one row for each of the ``rows`` that were given."""
    for name, value in outputs.items():
        if value.shape[0] != rows:
            raise Unsupported(
                f"output {name} has shape {tuple(value.shape)} for {counted(rows, 'row')}: its first axis is not the"
                " batch",
                hint="wrap the model so that every output has one row per input row: what picks boxes or points, such"
                " as thresholds and non-maximum suppression, is left to whoever reads its outputs",
            )


def leaves(value: Any) -> list[Any]:
    """Everything in an output that is no container, in order."""
    parts = _parts(value)
    return [value] if parts is None else [leaf for part in parts.values() for leaf in leaves(part)]


def _named_leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, _dense(name, value)
        return
    parts = _parts(value)
    if parts is None:
        if value is None and name:
            return
        what = "None" if value is None else f"of type {type(value).__name__}"
        raise Unsupported(f"output {name or 'output'} of the model is {what}, not a tensor", hint=_WRAP)
    numbered = isinstance(value, tuple | list) and not hasattr(value, "_fields")
    for key, part in parts.items():
        yield from _named_leaves(part, f"{name}_{key}" if name else f"output_{key}" if numbered else key)


def _parts(value: Any) -> dict[str, Any] | None:
    """What a container holds, by key; None for what is no container."""
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    return {str(index): part for index, part in enumerate(value)} if isinstance(value, tuple | list) else None


def _dense(name: str, value: Tensor) -> Tensor:
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        kind = "quantised" if value.is_quantized else "nested" if value.is_nested else "sparse"
        raise Unsupported(f"output {name} of the model is a {kind} tensor", hint="return a dense one")
    if value.ndim == 0 or not value.numel():
        what = "one number: its first axis is not the batch" if value.ndim == 0 else f"empty, {tuple(value.shape)}"
        raise Unsupported(f"output {name} of the model is {what}", hint="return tensors of one row per input row")
    return value
