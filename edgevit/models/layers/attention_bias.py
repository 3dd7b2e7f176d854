"""Attention biases of LeViT and EfficientFormer: per head, one learned number for every distance between two tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Grid = tuple[int, int]


class AttentionBias(nn.Module):
    """One number per head and per (|Δrow|, |Δcolumn|) of a query's and a key's place: () -> (heads, queries, keys).

    Keys lie on the whole ``grid`` (rows, columns); queries on every ``query_stride``-th row and column of it, the first
    included. Nothing is cached: the train form gathers in every call, a deploy form takes ``gathered()`` once.

    ``stored`` says whether the index table is part of the state dict.
    """

    index: Tensor

    def __init__(self, heads: int, grid: Grid, *, query_stride: int = 1, stored: bool = True) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.zeros(heads, grid[0] * grid[1]))
        self.register_buffer("index", distance_index(grid, query_stride), persistent=stored)

    def forward(self) -> Tensor:
        return self.table[:, self.index]

    def gathered(self) -> Tensor:
        """The constant (heads, queries, keys), without a gradient."""
        return self.forward().detach()


def distance_index(grid: Grid, query_stride: int = 1) -> Tensor:
    """Column of the table for each query and key, (queries, keys) int64: |Δrow| · columns + |Δcolumn|."""
    keys = _places(grid, 1)
    distance = (_places(grid, query_stride)[:, None] - keys[None]).abs()
    return distance[..., 0] * grid[1] + distance[..., 1]


def _places(grid: Grid, step: int) -> Tensor:
    rows, columns = (torch.arange(0, side, step) for side in grid)
    return torch.cartesian_prod(rows, columns).reshape(-1, 2)


def resample_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """A table (heads, distances) learned on one grid, for another one over the same picture.

    A distance keeps its length in the picture: it is read, linearly interpolated, at distance · old / new. Distance
    zero stays distance zero, unlike with image resampling, which looks at the centres of pixels.
    """
    values = table.detach().double().reshape(-1, *old)
    for axis, (was, now) in enumerate(zip(old, new, strict=True), start=1):
        place = (torch.arange(now, device=table.device, dtype=torch.float64) * (was / now)).clamp(max=was - 1)
        low = place.floor().long()
        high = (low + 1).clamp(max=was - 1)
        shape = [1, 1, 1]
        shape[axis] = now
        share = (place - low).reshape(shape)
        values = values.index_select(axis, low) * (1 - share) + values.index_select(axis, high) * share
    return values.reshape(table.shape[0], -1).to(table.dtype)


def resample_biases(state: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], str | None]:
    """``state`` with every table that is for another grid than the model's resampled, and a note when any was.

    Only a square grid can be told from a table's length; any other table is left alone, for the loader to refuse.
    """
    fitted, note = dict(state), None
    for path, bias in model.named_modules():
        table = fitted.get(f"{path}.table") if isinstance(bias, AttentionBias) else None
        if not isinstance(bias, AttentionBias) or table is None or table.shape == bias.table.shape:
            continue
        side = round(table.shape[-1] ** 0.5)
        if table.ndim != 2 or side * side != table.shape[1]:
            continue
        fitted[f"{path}.table"] = resample_table(table, (side, side), bias.grid)
        if f"{path}.index" in fitted:
            fitted[f"{path}.index"] = bias.index
        note = f"attention biases resampled, the last from {side}×{side} to {bias.grid[0]}×{bias.grid[1]} tokens"
    return fitted, note
