"""Tensors that wait to be compared: on the disk where they are large.

A proof compares whole models in float64, where a map of 150 classes at 512² has 314 MB. So only the one that was
computed last is in memory; the one beside it is read a block at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from edgevit.artifact.shelf import ROW_BYTES, Scratch
from edgevit.disk import filling
from edgevit.precisions import BLOCK


class Aside:
    """A float64 tensor on the disk. No data class: those count as containers of outputs."""

    dtype = torch.float64

    def __init__(self, value: Tensor) -> None:
        self.shape = value.shape
        self._scratch = Scratch()
        self.path: Path = self._scratch.file()
        with filling(self.path), self.path.open("wb") as stream:
            for block in blocks(value):
                block.numpy().tofile(stream)

    def blocks(self) -> Iterator[Tensor]:
        """Flat, ``BLOCK`` values at a time."""
        for start in range(0, self.numel(), BLOCK):
            yield torch.from_numpy(np.fromfile(self.path, np.float64, BLOCK, offset=8 * start))

    def whole(self) -> Tensor:
        """A tensor again, the caller's own."""
        return torch.from_numpy(np.fromfile(self.path, np.float64)).reshape(self.shape)

    def numel(self) -> int:
        return math.prod(self.shape)


Kept: TypeAlias = Tensor | Aside


def set_aside(value: Any) -> Any:
    """A copy whose large tensors are on the disk."""
    return tree_map(lambda leaf: Aside(leaf) if _is_large(leaf) else _cloned(leaf), value)


def cloned(value: Any) -> Any:
    """A copy whose tensors are in memory."""
    return tree_map(lambda leaf: leaf.whole() if isinstance(leaf, Aside) else _cloned(leaf), value)


def blocks(value: Kept) -> Iterator[Tensor]:
    """The values, flat, ``BLOCK`` at a time."""
    if isinstance(value, Aside):
        return value.blocks()
    return iter(torch.split(value.detach().reshape(-1), BLOCK) if value.numel() else ())


def all_finite(value: Kept) -> bool:
    """Whether all are numbers. A block at a time: torch looks at a copy."""
    return all(bool(torch.isfinite(block).all()) for block in blocks(value))


def _is_large(leaf: Any) -> bool:
    plain = isinstance(leaf, Tensor) and leaf.layout is torch.strided and leaf.device.type == "cpu"
    return plain and leaf.dtype is torch.float64 and leaf.numel() * 8 > ROW_BYTES


def _cloned(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
