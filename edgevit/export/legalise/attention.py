"""Attention under a mask that is decided in the program: a row of it may forbid every key."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten
_FORBIDDEN = -3e4  # e to it is nothing in every type, and fp16 holds it


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor | Any:  # fmt: skip
    """softmax(Q Kᵀ scale + mask) V; as in PyTorch a row that forbids every key gives zeros, where a softmax alone would
    give no number, or all keys."""
    key, value = (_for_each(query, one) if enable_gqa else one for one in (key, value))
    if attn_mask is None or is_causal:
        whole = torch.nn.functional.scaled_dot_product_attention
        return whole(query, key, value, is_causal=is_causal, scale=scale) if enable_gqa else NotImplemented
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    nothing = torch.zeros((), dtype=query.dtype, device=query.device)
    if attn_mask.dtype is torch.bool:
        weights = torch.where(attn_mask, scores, nothing + _FORBIDDEN).softmax(-1)
        return torch.where(attn_mask, weights, nothing) @ value
    scores = scores + attn_mask
    return torch.where(scores.amax(-1, keepdim=True) > -math.inf, scores.softmax(-1), nothing) @ value


def _for_each(query: Tensor, one: Tensor) -> Tensor:
    """Keys or values of few heads, repeated for the queries that share them."""
    return one.repeat_interleave(query.shape[-3] // one.shape[-3], -3)


def is_decided(node: fx.Node) -> bool:
    """Whether its mask comes of a comparison in the program; a mask that is a constant forbids no whole row."""
    mask = arguments(node)["attn_mask"]
    seen: set[fx.Node] = set()
    ahead = [mask] if isinstance(mask, fx.Node) else []
    while ahead:
        one = ahead.pop()
        if one not in seen:
            seen.add(one)
            ahead += one.all_input_nodes
    return any(_decides(one) for one in seen)


def _decides(node: fx.Node) -> bool:
    return _kind(node) is torch.bool and any(_kind(one) not in (None, torch.bool) for one in node.all_input_nodes)


def _kind(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, Tensor) else None


def _is_for_it(node: fx.Node) -> bool:
    return is_decided(node) or bool(arguments(node)["enable_gqa"])


ATTENTION_RULES = {aten.scaled_dot_product_attention.default: Rule(masked_attention, _is_for_it)}
