"""Matrix products: linear, matmul, einsum and attention. Accumulation is BLAS's, in float32."""

from __future__ import annotations

import math

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.runtimes.coreml.ops.activation import softmax
from edgevit.runtimes.coreml.ops.registry import computes


@computes("linear")
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """(…, D_in) and weights (D_out, D_in) to (…, D_out)."""
    out = x.reshape(-1, x.shape[-1]) @ weight.T
    if bias is not None:
        out += bias
    return np.asarray(out).reshape(*x.shape[:-1], weight.shape[0])


@computes("matmul")
def matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Array:
    """The product over the last two axes, the others broadcast. The flags swap those two, except of a vector."""
    left = x.swapaxes(-1, -2) if transpose_x and x.ndim > 1 else x
    right = y.swapaxes(-1, -2) if transpose_y and y.ndim > 1 else y
    return np.asarray(np.matmul(left, right))


@computes("einsum")
def einsum(values: list[Array], equation: str) -> Array:
    """Einstein's sum, for example "nchw,nwhu->nchu"."""
    return np.asarray(np.einsum(equation, *values, optimize=True))


@computes("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """softmax(Q·Kᵀ / √E + mask)·V. Q is (B, …, L, E), K (B, …, S, E), V (B, …, S, F).

    A boolean mask says which pairs take part; any other is added. Nothing between the products is rounded to float16.
    """
    scores = query @ key.swapaxes(-1, -2) * (1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == np.bool_ else scores + attn_mask
    return np.asarray(softmax(scores) @ value)
