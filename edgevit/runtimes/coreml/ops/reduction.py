"""Reductions. Sums are numpy's pairwise ones in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.registry import computes

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_mean": np.mean,
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
}


def _register(name: str, function: Callable[..., Any]) -> None:
    @computes(name)
    def reduction(x: Array, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Array:
        return np.asarray(function(x, axis=_over(axes), keepdims=bool(keep_dims)))


for _name, _function in _REDUCTIONS.items():
    _register(_name, _function)


@computes("reduce_sum_square")
def reduce_sum_square(x: Array, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Array:
    """Σx²."""
    return np.asarray(np.square(x).sum(axis=_over(axes), keepdims=bool(keep_dims)))


@computes("reduce_l2_norm")
def reduce_l2_norm(x: Array, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Array:
    """√Σx²."""
    return np.asarray(np.sqrt(reduce_sum_square(x, axes, keep_dims)))


@computes("reduce_l1_norm")
def reduce_l1_norm(x: Array, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Array:
    """Σ|x|."""
    return np.asarray(np.abs(x).sum(axis=_over(axes), keepdims=bool(keep_dims)))


@computes("reduce_log_sum")
def reduce_log_sum(x: Array, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Array:
    """ln Σx."""
    return np.asarray(np.log(x.sum(axis=_over(axes), keepdims=bool(keep_dims))))


@computes("reduce_log_sum_exp")
def reduce_log_sum_exp(x: Array, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Array:
    """ln Σeˣ, the largest finite element taken out of the sum."""
    largest = x.max(axis=_over(axes), keepdims=True)
    taken = np.where(np.isfinite(largest), largest, 0)
    found = np.log(np.exp(x - taken).sum(axis=_over(axes), keepdims=True)) + taken
    return np.asarray(found if keep_dims else np.squeeze(found, _over(axes)))


@computes("reduce_argmax")
def reduce_argmax(x: Array, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Array:
    """Index of the largest element, the first of equals."""
    return np.asarray(np.argmax(x, axis=int(axis), keepdims=bool(keep_dims)))


@computes("reduce_argmin")
def reduce_argmin(x: Array, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Array:
    """Index of the smallest element, the first of equals."""
    return np.asarray(np.argmin(x, axis=int(axis), keepdims=bool(keep_dims)))


def _over(axes: Sequence[int] | None) -> tuple[int, ...] | None:
    return tuple(int(axis) for axis in axes) if axes is not None else None
