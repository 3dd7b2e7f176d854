"""Normalisation layers. Means and variances are taken in float32, over centred values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import computes


@computes("layer_norm")
def layer_norm(
    x: Array,
    axes: Sequence[int] | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """Zero mean and unit variance over ``axes`` (default all); gamma and beta have the shape of those axes."""
    over = tuple(sorted(int(axis) % x.ndim for axis in axes)) if axes is not None else tuple(range(x.ndim))
    shape = [side if axis in over else 1 for axis, side in enumerate(x.shape)]
    return _scaled(_standardised(x, over, epsilon), gamma, beta, shape)


@computes("instance_norm")
def instance_norm(x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: float = 1e-5) -> Array:
    """Zero mean and unit variance over the spatial axes of each channel of each row. x is (N, C, *D)."""
    return _scaled(_standardised(x, tuple(range(2, x.ndim)), epsilon), gamma, beta, _channel_shape(x))


@computes("batch_norm")
def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """γ·(x - mean) / √(variance + ε) + β, by channel. x is (N, C, *D)."""
    shape = _channel_shape(x)
    scale = 1 / np.sqrt(variance + epsilon)
    return _scaled((x - mean.reshape(shape)) * scale.reshape(shape), gamma, beta, shape)


@computes("l2_norm")
def l2_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """x / √(Σx² + ε) over the last three axes."""
    return np.asarray(x / np.sqrt(np.square(x).sum(axis=(-3, -2, -1), keepdims=True) + epsilon))


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    centred /= np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + epsilon)
    return np.asarray(centred)


def _scaled(x: Array, gamma: Array | None, beta: Array | None, shape: Sequence[int]) -> Array:
    if gamma is not None:
        x = x * np.reshape(gamma, shape)
    return x if beta is None else x + np.reshape(beta, shape)


def _channel_shape(x: Array) -> list[int]:
    return [-1 if axis == 1 else 1 for axis in range(x.ndim)]
