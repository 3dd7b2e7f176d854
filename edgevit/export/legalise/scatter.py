"""Scattered means: sums divided by counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgevit.export.legalise import Rule, arguments

SCATTER_REDUCE = torch.ops.aten.scatter_reduce.two


def scatter_mean(
    self: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor | Any:
    """``aten.scatter_reduce`` where ``reduce`` is "mean"; what nothing is scattered to keeps its value."""
    if reduce != "mean":
        return NotImplemented
    hits = torch.zeros_like(self).scatter_add(dim, index, torch.ones_like(src))
    start = self if include_self else torch.where(hits > 0, torch.zeros_like(self), self)
    count = hits + 1 if include_self else torch.clamp(hits, min=1)
    return start.scatter_add(dim, index, src) / count


def is_mean(node: fx.Node) -> bool:
    return bool(arguments(node)["reduce"] == "mean")


SCATTER_RULE = Rule(scatter_mean, is_mean)
