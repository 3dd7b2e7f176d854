"""Exponential, erf, tanh and the logistic function as arithmetic that the compiler turns into vector code.

The C library's functions would be called for one lane at a time. Worst errors, measured by
tests/export/test_tvm_approximate.py: exp 1 unit in the last place, the logistic function 3, erf and tanh 6 (mean below
1). The coefficients are our own fits: least squares on Chebyshev nodes with the weights of Lawson's iteration, so that
the relative error is level; erf and tanh as x·P(x²)/Q(x²), exp as 1 + r + r²·P(r) on |r| ≤ ½ log 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call

from edgevit.export.tvm.schedules.loops import Expr

ERF_END = 3.92  # beyond it erf is 1 in float32
ERF_UP = (
    1.128379146175709,
    0.19040618518216818,
    0.052748692302952864,
    0.0037656062670516164,
    0.0002848827201423142,
    2.0500927326132116e-06,
)
ERF_DOWN = (
    1.0,
    0.5020758291957972,
    0.11410900093401394,
    0.014969195533489257,
    0.0011625333258506363,
    3.809177076989336e-05,
)
TANH_END = 9.02  # beyond it tanh is 1 in float32
TANH_UP = (
    0.9999999986937944,
    0.1367991797941096,
    0.0038683313625957937,
    2.800752985162249e-05,
    3.058518418961432e-08,
    -1.2203577249861099e-11,
)
TANH_DOWN = (1.0, 0.47013250040672616, 0.027245852120109246, 0.00039386374231505805, 1.2873714421394217e-06)
EXP = (0.4999999334614275, 0.16666519126984397, 0.041668405780832515, 0.008368898961374232, 0.0013814219103796543)
EXP_LOW, EXP_HIGH = -104.0, 89.0  # in float32 exp is 0 below and infinite above, and n stays a valid exponent between
LOG2_E = 1.4426950408889634
# Log 2 in two parts (Cody and Waite). The first has 9 bits, so that n times it is exact and x less that loses nothing:
# with a single part the rounding of n·log 2 would be the error of the result.
LOG_2_HIGH, LOG_2_LOW = 0.693359375, -2.12194440e-4


def approximate(expression: Expr) -> Expr:
    """``expression`` with those intrinsics, on float32, replaced."""

    def answer(call: Any) -> Expr:
        written = REPLACED.get(str(getattr(call.op, "name", "")))
        return written(call.args[0]) if written is not None and str(call.ty) == "float32" else call

    return tvm_ffi.structural_map(expression, (Call, answer))


def exponential(x: Expr) -> Expr:
    """2ⁿ·exp(r) with n = round(x / log 2); the power of two in two factors, for subnormal results and infinity."""
    bounded = tirx.max(tirx.min(x, _number(EXP_HIGH)), _number(EXP_LOW))

    def scaled(x: Expr) -> Expr:
        return _named("n", tirx.floor(x * _number(LOG2_E) + _number(0.5)), lambda n: reduced(x, n))

    def reduced(x: Expr, n: Expr) -> Expr:
        rest = x - n * _number(LOG_2_HIGH) - n * _number(LOG_2_LOW)
        return _named("r", rest, lambda r: _named("i", tirx.Cast("int32", n), lambda i: finished(r, i)))

    def finished(r: Expr, i: Expr) -> Expr:
        # 1 and r are added last and unrounded: the polynomial's own error counts only where r² is large
        value = _polynomial(EXP, r) * (r * r) + r + _number(1.0)
        # 2ⁿ from -150 to 128 is no float32 as a whole; two halves are, and their product under- and overflows rightly
        half = tirx.shift_right(i, tirx.const(1, "int32"))
        return value * _power_of_two(half) * _power_of_two(i - half)

    return _named("x", bounded, scaled)


def _power_of_two(exponent: Expr) -> Expr:
    # the exponent's bits of a float32 with an empty fraction: one shift where the library would be called
    bits = tirx.shift_left(exponent + tirx.const(127, "int32"), tirx.const(23, "int32"))
    return tirx.reinterpret("float32", bits)


def logistic(x: Expr) -> Expr:
    return _number(1.0) / (exponential(_number(0.0) - x) + _number(1.0))


def error_function(x: Expr) -> Expr:
    return _odd_ratio(x, ERF_END, ERF_UP, ERF_DOWN)


def hyperbolic_tangent(x: Expr) -> Expr:
    return _odd_ratio(x, TANH_END, TANH_UP, TANH_DOWN)


def _odd_ratio(x: Expr, end: float, up: Sequence[float], down: Sequence[float]) -> Expr:
    """x·P(x²)/Q(x²) on [-end, end], held within [-1, 1]."""
    bounded = tirx.max(tirx.min(x, _number(end)), _number(-end))

    def ratio(x: Expr) -> Expr:
        return _named("t", x * x, lambda t: x * _polynomial(up, t) / _polynomial(down, t))

    # near the ends P/Q rounds to just above 1, which no erf or tanh is
    return tirx.max(tirx.min(_named("x", bounded, ratio), _number(1.0)), _number(-1.0))


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Horner's rule, constant first."""
    value: Expr = _number(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + _number(coefficient)
    return value


def _named(name: str, value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body`` of a value that is computed once."""
    variable = tirx.Var(name, str(value.ty))
    return tirx.Let(variable, value, body(variable))


def _number(value: float) -> Expr:
    return tirx.const(value, "float32")


REPLACED: Mapping[str, Callable[[Expr], Expr]] = {
    "tirx.exp": exponential,
    "tirx.erf": error_function,
    "tirx.tanh": hyperbolic_tangent,
    "tirx.sigmoid": logistic,
}
