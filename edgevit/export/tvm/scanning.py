"""Sums and products up to each place of an axis: TVM's own form is for GPUs alone."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgevit.export.tvm.kinds import OPAQUE

Expr = Any


def legalise(name: str, combine: Callable[[Expr, Expr], Expr]) -> Callable[[Any, Any], Expr]:
    """``relax.cumsum`` or ``relax.cumprod``."""

    def written(builder: Any, call: Any) -> Expr:
        dtype = str(call.ty.dtype)
        return builder.call_te(
            lambda data: scanned(data, int(call.attrs.axis), dtype, combine),
            call.args[0],
            primfunc_name_hint=name,
            primfunc_attrs={"op_pattern": OPAQUE},
        )

    return written


def scanned(data: Any, axis: int, dtype: str, combine: Callable[[Expr, Expr], Expr]) -> Any:
    shape = list(data.shape)
    axis %= len(shape)
    size, one = shape[axis], tirx.const(1, "int64")
    outer, inner = prod(shape[:axis], start=one), prod(shape[axis + 1 :], start=one)

    def body(source: Any, result: Any) -> Any:
        with IRBuilder() as builder:
            given, found = T.buffer_proxy(source), T.buffer_proxy(result)
            with T.parallel(0, outer * inner) as line:
                start = (line // inner) * size * inner + line % inner
                found[start] = tirx.Cast(dtype, given[start])
                with T.serial(0, size - 1) as at:
                    here = start + (at + 1) * inner
                    found[here] = combine(found[start + at * inner], tirx.Cast(dtype, given[here]))
            return builder.get()

    return te.extern([shape], [data], lambda given, made: body(given[0], made[0]), dtype=[dtype], name="scanned")
