"""Relax operators on constants, computed with numpy: TVM's own folding compiles a program for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.ir import GenericConst

from edgevit.artifact.manifest import Array

Expr = Any


def fold(call: Any) -> Expr | None:
    """The constant that a call on constants gives; None for other calls, and for operators not listed here."""
    rule = RULES.get(getattr(call.op, "name", ""))
    if rule is None:
        return None
    arrays = []
    for argument in call.args:
        if isinstance(argument, GenericConst):
            arrays.append(argument.value.numpy())
        elif not isinstance(argument, relax.ShapeExpr):
            return None
    return None if not arrays else _constant(rule(call, *arrays))


def _constant(array: Array | None) -> Expr | None:
    return None if array is None else relax.const(np.ascontiguousarray(array), str(array.dtype))


def _numbers(values: Any) -> list[int]:
    return [int(each) for each in values]


def _permute(call: Any, array: Array) -> Array:
    return array.transpose(_numbers(call.attrs.axes) if call.attrs.axes else None)


def _reshape(call: Any, array: Array) -> Array | None:
    target = list(call.args[1].values)
    return array.reshape(_numbers(target)) if all(isinstance(each, tirx.IntImm) for each in target) else None


def _expand(call: Any, array: Array) -> Array:
    for axis in sorted(_numbers(call.attrs.axis)):
        array = np.expand_dims(array, axis)
    return array


def _squeeze(call: Any, array: Array) -> Array:
    return array.squeeze(tuple(_numbers(call.attrs.axis)) if call.attrs.axis else None)


def _take(call: Any, array: Array, *places: Array) -> Array | None:
    if len(places) != 1 or not (places[0].min() >= 0 and places[0].max() < array.shape[int(call.attrs.axis or 0)]):
        return None
    return np.take(array, places[0], axis=None if call.attrs.axis is None else int(call.attrs.axis))


def _float32(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda _call, *arrays: np.asarray(function(*arrays), dtype=arrays[0].dtype)


RULES: Mapping[str, Callable[..., Array | None]] = {
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.expand_dims": _expand,
    "relax.squeeze": _squeeze,
    "relax.take": _take,
    "relax.add": _float32(np.add),
    "relax.subtract": _float32(np.subtract),
    "relax.multiply": _float32(np.multiply),
    "relax.divide": _float32(np.divide),
    "relax.negative": _float32(np.negative),
    "relax.sqrt": _float32(np.sqrt),
    "relax.rsqrt": _float32(lambda x: 1 / np.sqrt(x)),
}
