"""The error function for arrays, with numpy alone: devices have no scipy.

For z ≥ 0 the scaled function f(z) = (1 + 2z)·exp(z²)·erfc(z) varies little (between 1 and 1.3), and it is smooth in
t = (z - 3.75) / (z + 3.75), which takes z = 0 … ∞ to t = -1 … 1 (Shepherd and Laframboise, Math. Comp. 36, 1981).
A polynomial through values of ``math.erfc`` gives f, so that erfc has a small *relative* error until it underflows.
Inside, everything is float64; results are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.polynomial import Chebyshev

from edgevit.artifact.manifest import Array

_CENTRE = 3.75
_DEGREE = 14
_FAR = 20.0  # beyond it exp(z²) nears overflow, and four terms of the asymptotic series are exact to 1e-9
_NEAR = 0.5  # below it 1 - erfc(z) would cancel, and the power series needs few terms
_SERIES_TERMS = 9
_BLOCK = 1 << 15  # elements handled at once, so that temporaries stay in the cache


def erf(x: Array) -> Array:
    """erf(x) as float32, relative error about 1e-7, for an array of any shape."""
    return _in_blocks(_erf, x)


def gelu(x: Array) -> Array:
    """x·Φ(x) as float32, Φ being the normal distribution. Nothing cancels for negative x."""
    return _in_blocks(_gelu, x)


def erfc_of_positive(z: Array) -> Array:
    """erfc(z) of float64 z ≥ 0, relative error about 1e-9."""
    t = 1.0 - 2.0 * _CENTRE / (z + _CENTRE)
    return np.asarray(_horner(_polynomial(), t) * np.exp(-z * z) / (1.0 + 2.0 * z))


def _erf(x: Array) -> Array:
    size = np.abs(x)
    near = size * _horner(_power_series(), np.minimum(size, _NEAR) ** 2)
    return np.asarray(np.copysign(np.where(size < _NEAR, near, 1.0 - erfc_of_positive(size)), x))


def _gelu(x: Array) -> Array:
    tail = 0.5 * erfc_of_positive(np.abs(x) * math.sqrt(0.5))
    return np.asarray(x * np.where(x > 0, 1.0 - tail, tail))


@cache
def _polynomial() -> tuple[float, ...]:
    """Coefficients of f in powers of t, lowest first."""
    series = Chebyshev.interpolate(np.vectorize(_scaled_erfc), _DEGREE)
    return tuple(float(value) for value in series.convert(kind=np.polynomial.Polynomial).coef)


def _scaled_erfc(t: float) -> float:
    """f at t: (1 + 2z)·exp(z²)·erfc(z)."""
    z = _CENTRE * (1 + t) / (1 - t)
    if z < _FAR:
        return (1 + 2 * z) * math.exp(z * z) * math.erfc(z)
    inverse = 1 / (2 * z * z)
    return (2 + 1 / z) / math.sqrt(math.pi) * (1 - inverse * (1 - 3 * inverse * (1 - 5 * inverse)))


@cache
def _power_series() -> tuple[float, ...]:
    """erf(x) / x in powers of x²."""
    return tuple(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(_SERIES_TERMS))


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    total = np.full(x.shape, coefficients[-1])
    for value in reversed(coefficients[:-1]):
        total *= x
        total += value
    return total


def _in_blocks(function: Callable[[Array], Array], x: Array) -> Array:
    flat = np.ascontiguousarray(x).reshape(-1)
    found = np.empty(flat.shape, np.float32)
    for start in range(0, flat.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        found[part] = function(flat[part].astype(np.float64))
    return found.reshape(np.shape(x))
