"""Arithmetic and logic on elements, with numpy's broadcasting, which is MIL's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.erf import erf as error_function
from edgevit.runtimes.coreml.ops.registry import computes, maps, moves

_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "pow": np.power,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
_UNARY: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "round": np.round,
    "exp": np.exp,
    "exp2": np.exp2,
    "sqrt": np.sqrt,
    "square": np.square,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "atanh": np.arctanh,
    "logical_not": np.logical_not,
    "erf": error_function,
}


def _register_binary(name: str, function: Callable[..., Any]) -> None:
    @computes(name)
    def binary(x: Array, y: Array) -> Array:
        return np.asarray(function(x, y))


def _register_unary(name: str, function: Callable[..., Any]) -> None:
    @maps(name)
    def unary(x: Array) -> Array:
        return np.asarray(function(x))


for _name, _function in _BINARY.items():
    _register_binary(_name, _function)
for _name, _function in _UNARY.items():
    _register_unary(_name, _function)


@computes("real_div")
def real_div(x: Array, y: Array) -> Array:
    """x / y; of two int32 tensors the quotient cut towards zero, since MIL gives it the type of its inputs."""
    return np.true_divide(x, y)


@maps("rsqrt")
def rsqrt(x: Array, epsilon: float = 1e-12) -> Array:
    """1 / √(x + ε)."""
    return 1.0 / np.sqrt(x + epsilon)


@maps("inverse")
def inverse(x: Array, epsilon: float = 1e-4) -> Array:
    """1 / (x + ε)."""
    return 1.0 / (x + epsilon)


@maps("log")
def log(x: Array, epsilon: float = 1e-45) -> Array:
    """ln(x + ε)."""
    return np.asarray(np.log(x + epsilon))


@maps("clip")
def clip(x: Array, alpha: float, beta: float) -> Array:
    """x, at least ``alpha`` and at most ``beta``."""
    return np.asarray(np.minimum(np.maximum(x, alpha), beta))


@maps("threshold")
def threshold(x: Array, alpha: float) -> Array:
    """max(x, alpha)."""
    return np.maximum(x, alpha)


@moves("select")
def select(cond: Array, a: Array, b: Array) -> Array:
    """a where ``cond`` holds, else b."""
    return np.where(cond, a, b)


@moves("cast")
def cast(x: Array, dtype: str) -> Array:
    """x: the rounding of the result to its type, which every operation has, is the cast."""
    return x


@moves("identity")
def identity(x: Array) -> Array:
    """x."""
    return x
