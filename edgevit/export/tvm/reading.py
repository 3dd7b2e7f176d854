"""Operators that TVM has and its importer does not know, or reads wrongly, in Relax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx
from tvm import relax

from edgevit.export.legalise import arguments

aten = torch.ops.aten
Read = Callable[[fx.Node, Any], Any]


def _extreme(find: Callable[..., Any], bound: Callable[..., Any], worst: int) -> Read:
    """Of argmax and argmin: TVM finds nothing, -1, in a row that is infinite all through, as where all is masked.

    It begins with the least number there is and asks for a larger one: half of it is larger, and less than what counts.
    """

    def convert(node: fx.Node, importer: Any) -> Any:
        given = arguments(node)
        value, emit = importer.env[given["self"]], importer.block_builder.emit
        dtype = str(value.ty.dtype)
        if dtype in _NARROW:  # the least of which is often all there is
            value, dtype = emit(relax.op.astype(value, "int32")), "int32"
        limit = np.finfo(dtype).max / 2 if dtype.startswith("float") else np.iinfo(dtype).max - 1
        value = emit(bound(value, relax.const(np.asarray(worst * limit, dtype), dtype)))
        return emit(find(value, given.get("dim"), bool(given.get("keepdim"))))

    return convert


_NARROW = ("bool", "uint8", "int8", "int16", "uint16")


def _reduced(reduce: Callable[..., Any]) -> Read:
    """Over axes that are given by number; booleans and short integers by way of wider ones."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given = arguments(node)
        value, emit = importer.env[given["self"]], importer.block_builder.emit
        made = _dtype(node)
        between = "int8" if made == "bool" else made
        if str(value.ty.dtype) != between:
            value = emit(relax.op.astype(value, between))
        found = emit(reduce(value, given["dim"] if given["dim"] != [] else None, keepdims=bool(given["keepdim"])))
        return found if between == made else emit(relax.op.astype(found, made))

    return convert


def _dtype(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def _summed(scan: Callable[..., Any]) -> Read:
    """Up to each place; integers as int64."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given = arguments(node)
        return importer.block_builder.emit(scan(importer.env[given["self"]], given["dim"], _dtype(node)))

    return convert


def _scattered(node: fx.Node, importer: Any) -> Any:
    given = arguments(node)
    start, index, source = (importer.env[given[name]] for name in ("self", "index", "src"))
    reduction = _REDUCTIONS[given.get("reduce", "sum")]
    if not given.get("include_self", True):
        start = _emptied(importer, start, index, source, given["dim"], reduction)
    return _scatter(importer, start, index, source, given["dim"], reduction)


def _emptied(importer: Any, start: Any, index: Any, source: Any, axis: int, reduction: str) -> Any:
    """Where something is scattered to, what changes nothing."""
    dtype = str(source.ty.dtype)
    low, high = (-np.inf, np.inf) if dtype.startswith("float") else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    value = np.asarray({"add": 0, "mul": 1, "max": low, "min": high}[reduction], dtype)
    filled = importer.block_builder.emit(relax.op.full_like(source, relax.const(value, dtype)))
    return _scatter(importer, start, index, filled, axis, "update")


def _scatter(importer: Any, start: Any, index: Any, source: Any, axis: int, reduction: str) -> Any:
    return importer.block_builder.emit(relax.op.scatter_elements(start, index, source, axis, reduction))


_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "add": "add", "multiply": "mul"}


def _shifted(by: Callable[[Any, Any], Any]) -> Read:
    def convert(node: fx.Node, importer: Any) -> Any:
        value = importer.env[node.args[0]]
        count: Any = node.args[1]
        amount = importer.env[count] if isinstance(count, fx.Node) else relax.const(count, str(value.ty.dtype))
        return importer.block_builder.emit(by(value, amount))

    return convert


def _product(node: fx.Node, importer: Any) -> Any:
    """Of matrices in their own type, where TVM's import makes float32 of all."""
    return importer.block_builder.emit(relax.op.matmul(*(importer.env[each] for each in node.args)))


def _compared(with_itself: bool, compare: Callable[[Any, Any], Any]) -> Read:
    """Real numbers with themselves: whether they are none. TVM takes it that every value is equal to itself."""

    def convert(node: fx.Node, importer: Any) -> Any:
        first, second = (importer.env[each] for each in node.args)
        emit = importer.block_builder.emit
        if _source(node.args[0]) is not _source(node.args[1]) or not str(first.ty.dtype).startswith("float"):
            return emit(compare(first, second))
        strange = emit(relax.op.isnan(first))
        return emit(relax.op.logical_not(strange)) if with_itself else strange

    return convert


def _source(node: Any) -> Any:
    while node.target in _SAME:
        node = node.args[0]
    return node


_SAME = (aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh_copy.default)


def _power_of_two(node: fx.Node, importer: Any) -> Any:
    value = importer.env[node.args[0]]
    return importer.block_builder.emit(relax.op.power(relax.const(2.0, str(value.ty.dtype)), value))


def is_constant(node: fx.Node) -> bool:
    """Whether a call is of numbers alone, and no chance: 0, 1, 2, … or a matrix of ones."""
    drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", (torch.Tag.nondeterministic_seeded,))
    value = node.meta.get("val")
    fixed = isinstance(value, torch.Tensor) and all(isinstance(size, int) for size in value.shape)
    return fixed and not drawn and not node.all_input_nodes and node.target not in _FILLED


def constant_of(node: fx.Node) -> Any:
    target: Any = node.target
    return relax.const(target(*node.args, **node.kwargs).numpy(), _dtype(node))


_FILLED = (aten.full.default, aten.zeros.default, aten.ones.default)  # TVM fills them where they are read

READ_ANEW: Mapping[str, Read] = {
    "argmax.default": _extreme(relax.op.argmax, relax.op.maximum, -1),
    "argmin.default": _extreme(relax.op.argmin, relax.op.minimum, 1),
    "amax.default": _reduced(relax.op.max),
    "amin.default": _reduced(relax.op.min),
    "prod.dim_int": _reduced(relax.op.prod),
    "cumsum.default": _summed(relax.op.cumsum),
    "cumprod.default": _summed(relax.op.cumprod),
    "scatter_add.default": _scattered,
    "scatter_reduce.two": _scattered,
    "scatter.reduce": _scattered,
    "exp2.default": _power_of_two,
    **dict.fromkeys(("matmul.default", "mm.default", "bmm.default"), _product),
    "eq.Tensor": _compared(True, relax.op.equal),
    "ne.Tensor": _compared(False, relax.op.not_equal),
    **dict.fromkeys(
        ("__lshift__.Scalar", "__lshift__.Tensor", "bitwise_left_shift.Tensor"), _shifted(relax.op.left_shift)
    ),
    **dict.fromkeys(
        ("__rshift__.Scalar", "__rshift__.Tensor", "bitwise_right_shift.Tensor"), _shifted(relax.op.right_shift)
    ),
}
