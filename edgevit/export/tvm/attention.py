"""Attention with a mask, a scale, grouped heads or other than four axes, as Relax operators.

TVM's own import of the operator drops the scale, takes float masks of four axes only, and knows no grouped heads. What
it does know, softmax(q kᵀ / √E) v on four axes, is left to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx
from tvm import relax, tirx

from edgevit.errors import Unsupported
from edgevit.export.legalise import arguments
from edgevit.export.legalise.attention import is_decided

OPERATOR = "scaled_dot_product_attention.default"


def convert(node: fx.Node, importer: Any) -> Any:
    """For the importer's ``custom_convert_map``: the variable that holds the result of ``node``."""
    given = arguments(node)
    if given["dropout_p"]:
        raise Unsupported("attention has dropout in eval mode", hint="give it only while self.training")
    query, key, value = (importer.env[given[name]] for name in ("query", "key", "value"))
    extras = (given["attn_mask"] is not None, given["is_causal"], given["scale"] is not None, given["enable_gqa"])
    if not any(extras) and int(query.ty.ndim) == 4 and _of_one_batch(query, key, value):
        return importer._scaled_dot_product_attention(node)
    emit = importer.block_builder.emit
    if given["enable_gqa"]:
        key, value = (emit(_grouped(each, query)) for each in (key, value))
    scale = 1 / math.sqrt(_sizes(query)[-1]) if given["scale"] is None else float(given["scale"])
    scores = emit(relax.op.multiply(emit(relax.op.matmul(query, emit(_turned(key)))), relax.const(np.float32(scale))))
    mask = _causal(query, key) if given["is_causal"] else importer.env.get(given["attn_mask"])
    if mask is None:
        return emit(relax.op.matmul(emit(relax.op.nn.softmax(scores, -1)), value))
    scores = emit(_masked(scores, mask))
    weights = emit(relax.op.nn.softmax(scores, -1))
    if is_decided(node):
        weights = emit(_seeing(weights, scores, mask, emit))
    return emit(relax.op.matmul(weights, value))


def _of_one_batch(*values: Any) -> bool:
    return len({tuple(str(size) for size in value.ty.shape.values[:-2]) for value in values}) == 1


def _seeing(weights: Any, scores: Any, mask: Any, emit: Any) -> Any:
    """A row that forbids every key gives zeros, where a softmax gives no number."""
    if str(mask.ty.dtype) == "bool":
        return relax.op.where(mask, weights, relax.const(np.float32(0)))
    most = emit(relax.op.max(scores, -1, keepdims=True))
    return relax.op.where(
        emit(relax.op.greater(most, relax.const(np.float32(-np.inf)))), weights, relax.const(np.float32(0))
    )


def _grouped(heads: Any, query: Any) -> Any:
    """(…, H, S, E) with each head as often in a row as ``query`` has heads for it."""
    return relax.op.repeat(heads, _sizes(query)[-3] // _sizes(heads)[-3], int(heads.ty.ndim) - 3)


def _turned(key: Any) -> Any:
    count = int(key.ty.ndim)
    return relax.op.permute_dims(key, [*range(count - 2), count - 1, count - 2])


def _causal(query: Any, key: Any) -> Any:
    """A row sees as many columns as there are rows up to it, and no more: torch counts from the top left."""
    rows, columns = _sizes(query)[-2], _sizes(key)[-2]
    return relax.const(np.where(np.tri(rows, columns, dtype=bool), 0, -np.inf).astype(np.float32))


def _masked(scores: Any, mask: Any) -> Any:
    if str(mask.ty.dtype) == "bool":
        return relax.op.where(mask, scores, relax.const(np.float32(-np.inf)))
    return relax.op.add(scores, mask)


def _sizes(value: Any) -> list[int]:
    """Extents, -1 for the batch's. Unsupported where one that attention needs is not known."""
    found = [int(each) if isinstance(each, tirx.IntImm) else -1 for each in value.ty.shape.values]
    if -1 in found[-2:]:
        raise Unsupported("TVM needs the number of tokens that attention sees to be fixed", hint="export to onnx")
    return found
