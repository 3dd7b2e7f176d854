"""Activation functions."""

from __future__ import annotations

import math

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.erf import gelu as exact_gelu
from edgevit.runtimes.coreml.ops.registry import computes, maps


@maps("relu")
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


@maps("relu6")
def relu6(x: Array) -> Array:
    """x between 0 and 6."""
    return np.asarray(np.minimum(np.maximum(x, 0), 6))


@maps("leaky_relu")
def leaky_relu(x: Array, alpha: float) -> Array:
    """x, times ``alpha`` where negative."""
    return np.where(x < 0, x * alpha, x)


@maps("thresholded_relu")
def thresholded_relu(x: Array, alpha: float) -> Array:
    """x where it is at least ``alpha``, else 0."""
    return np.where(x < alpha, 0, x)


@computes("prelu")
def prelu(x: Array, alpha: Array) -> Array:
    """x, times its channel's ``alpha`` where negative. x is (N, C, …)."""
    return np.where(x < 0, x * np.reshape(alpha, (-1,) + (1,) * (x.ndim - 2)), x)


@maps("elu")
def elu(x: Array, alpha: float) -> Array:
    """x, or α·(eˣ - 1) where negative."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@maps("gelu")
def gelu(x: Array, mode: str = "EXACT") -> Array:
    """x·Φ(x) or MIL's approximations of it: TANH_APPROXIMATION, SIGMOID_APPROXIMATION."""
    if mode == "TANH_APPROXIMATION":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))
    if mode == "SIGMOID_APPROXIMATION":
        return np.asarray(x * sigmoid(1.702 * x))
    return exact_gelu(x)


@maps("sigmoid")
def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), through tanh, which cannot overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


@maps("silu")
def silu(x: Array) -> Array:
    """x·sigmoid(x)."""
    return np.asarray(x / (1 + np.exp(-x)))


@maps("sigmoid_hard")
def sigmoid_hard(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """α·x + β between 0 and 1."""
    return np.asarray(np.minimum(np.maximum(alpha * x + beta, 0), 1))


@maps("softplus")
def softplus(x: Array) -> Array:
    """ln(1 + eˣ)."""
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


@maps("softsign")
def softsign(x: Array) -> Array:
    """x / (1 + |x|)."""
    return np.asarray(x / (1 + np.abs(x)))


@maps("clamped_relu")
def clamped_relu(x: Array, alpha: float, beta: float) -> Array:
    """x, times ``alpha`` where negative, and at most ``beta``."""
    return np.asarray(np.minimum(np.where(x < 0, alpha * x, x), beta))


@maps("linear_activation")
def linear_activation(x: Array, alpha: float, beta: float) -> Array:
    """α·x + β."""
    return np.asarray(alpha * x + beta)


@maps("scaled_tanh")
def scaled_tanh(x: Array, alpha: float, beta: float) -> Array:
    """α·tanh(β·x)."""
    return np.asarray(alpha * np.tanh(beta * x))


@computes("softplus_parametric")
def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """α·ln(1 + e^(β·x)), with an α and a β for each channel. x is (N, C, …)."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    return np.asarray(np.reshape(alpha, shape) * softplus(np.reshape(beta, shape) * x))


@computes("softmax")
def softmax(x: Array, axis: int = -1) -> Array:
    """eˣ / Σ eˣ along ``axis``, the largest element subtracted first."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    powers /= powers.sum(axis=axis, keepdims=True)
    return np.asarray(powers)
