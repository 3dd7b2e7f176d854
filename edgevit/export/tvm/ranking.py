"""The largest or smallest of an axis in order: a merge sort of our own, which keeps equal values in their order.

TVM's own sorts call a library that its runtime on a device does not load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import fx
from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgevit.errors import Unsupported
from edgevit.export.legalise import arguments
from edgevit.export.tvm.kinds import OPAQUE

Expr = Any


def legalise(builder: Any, call: Any) -> Expr:
    """``relax.topk`` as one function that gives the values and their places."""
    attributes = call.attrs
    return builder.call_te(
        ranked,
        call.args[0],
        int(attributes.axis),
        int(attributes.k),
        bool(attributes.largest),
        primfunc_name_hint="ranked",
        primfunc_attrs={"op_pattern": OPAQUE},
    )


def ranked(data: Any, axis: int, count: int, largest: bool) -> Any:
    """The first ``count`` of ``axis`` in order, and their places as int64. A NaN is larger than all numbers."""
    shape = list(data.shape)
    axis %= len(shape)
    size, one = int(shape[axis]), tirx.const(1, "int64")
    inner = prod(shape[axis + 1 :], start=one)
    lines = prod(shape[:axis], start=one) * inner
    shape[axis] = count

    def written(source: Any, values: Any, places: Any) -> Any:
        with IRBuilder() as builder:
            given, found, where = (T.buffer_proxy(each) for each in (source, values, places))
            with T.parallel(0, lines) as line:
                start, first = ((line // inner) * each * inner + line % inner for each in (size, count))
                order = _sorted(size, lambda at: given[start + at * inner], _precedes(str(data.dtype), largest))
                with T.serial(0, count) as at:
                    found[first + at * inner] = given[start + tirx.Cast("int64", order[at]) * inner]
                    where[first + at * inner] = tirx.Cast("int64", order[at])
            return builder.get()

    return te.extern(
        [shape, shape],
        [data],
        lambda given, made: written(given[0], *made),
        dtype=[str(data.dtype), "int64"],
        name="ranked",
    )


def _precedes(dtype: str, largest: bool) -> Callable[[Expr, Expr], Expr]:
    """Whether one value has to stand before another: not if they are equal."""

    def written(first: Expr, second: Expr) -> Expr:
        low, high = (second, first) if largest else (first, second)
        if dtype == "bool":
            return tirx.all(high, tirx.Not(low))
        if not dtype.startswith(("float", "bfloat")):
            return low < high
        return tirx.any(low < high, tirx.all(tirx.isnan(high), tirx.Not(tirx.isnan(low))))

    return written


def _sorted(size: int, value: Callable[[Expr], Expr], precedes: Callable[[Expr, Expr], Expr]) -> Any:
    """Places in order: runs of 1, 2, 4, … that are in order merged by pairs."""
    order, spare = (T.buffer_proxy(T.decl_buffer([size], "int32", scope="global")) for _ in range(2))
    with T.serial(0, size) as at:
        order[at] = tirx.Cast("int32", at)
    width = 1
    while width < size:
        _merge(order, spare, width, size, value, precedes)
        order, spare, width = spare, order, 2 * width
    return order


def _merge(
    order: Any, into: Any, width: int, size: int, value: Callable[[Expr], Expr], precedes: Callable[[Expr, Expr], Expr]
) -> None:
    left, right, taken = (T.buffer_proxy(T.decl_buffer([1], "int32", scope="local")) for _ in range(3))
    with T.serial(0, (size + 2 * width - 1) // (2 * width)) as pair:
        start = tirx.Cast("int32", pair) * (2 * width)
        middle, end = (tirx.min(start + each * width, size) for each in (1, 2))
        left[0] = start
        right[0] = middle
        with T.serial(0, end - start) as at:
            # both sides are read wherever one of them has come to its end: their places are held inside
            mine, other = (order[tirx.min(each[0], size - 1)] for each in (left, right))
            sooner = precedes(*(value(tirx.Cast("int64", each)) for each in (other, mine)))
            overtakes = tirx.any(left[0] >= middle, tirx.all(right[0] < end, sooner))
            taken[0] = tirx.Select(overtakes, tirx.const(1, "int32"), tirx.const(0, "int32"))
            into[start + at] = tirx.Select(taken[0] == 1, other, mine)
            left[0] = left[0] + 1 - taken[0]
            right[0] = right[0] + taken[0]


def _topk(node: fx.Node, importer: Any) -> Expr:
    given = arguments(node)
    return _both(node, importer, int(given["k"]), bool(given["largest"]))


def _sort(node: fx.Node, importer: Any) -> Expr:
    return _both(node, importer, None, bool(arguments(node)["descending"]))


def _argsort(node: fx.Node, importer: Any) -> Expr:
    return importer.block_builder.emit(_sort(node, importer)[1])


def _both(node: fx.Node, importer: Any, count: int | None, largest: bool) -> Expr:
    given = arguments(node)
    value = importer.env[given["self"]]
    size = value.ty.shape.values[int(given["dim"])]
    if not isinstance(size, tirx.IntImm):
        raise Unsupported("TVM needs the number of values that are sorted to be fixed", hint="export to onnx")
    found = relax.op.topk(value, int(size) if count is None else count, int(given["dim"]), "both", largest, "int64")
    return importer.block_builder.emit(found)


READ: Mapping[str, Callable[[fx.Node, Any], Any]] = {
    "topk.default": _topk,
    **dict.fromkeys(("sort.default", "sort.stable"), _sort),
    **dict.fromkeys(("argsort.default", "argsort.stable"), _argsort),
}
