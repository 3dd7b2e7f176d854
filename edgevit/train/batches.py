"""Batches of preprocessed images: from memory when they fit there, else decoded as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgevit.data.labelled import LabelledData
from edgevit.images import Preprocess

MEMORY_LIMIT = 1 << 30  # bytes of preprocessed images kept in memory


class _Rows(Dataset[Tensor]):
    """Preprocessed images by index, made on access."""

    def __init__(self, data: LabelledData, preprocess: Callable[[Any], Any]) -> None:
        self.data, self.preprocess = data, preprocess

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.preprocess(self.data.images[index])))


@dataclass(frozen=True)
class Batches:
    """Images (as (N, C, H, W) float32 in memory, or made on access) and their labels (N,)."""

    rows: Tensor | _Rows
    labels: Tensor
    workers: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(
        self, size: int, generator: torch.Generator, among: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch in random order, in nearly equal parts of at most ``size``: BatchNorm never sees a single image.

        Gives images, labels and their rows. ``among`` are the rows that the epoch shows; all by default.
        """
        count = len(self) if among is None else len(among)
        order = torch.randperm(count, generator=generator)
        order = order if among is None else among[order]
        parts = torch.tensor_split(order, step_count(count, size))
        for part, (images, labels) in zip(parts, self._each(parts), strict=True):
            yield images, labels, part

    def ordered(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order."""
        return self._each([torch.arange(start, min(start + size, len(self))) for start in range(0, len(self), size)])

    def _each(self, parts: tuple[Tensor, ...] | list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(self.rows, Tensor):
            for part in parts:
                yield self.rows[part], self.labels[part]
            return
        sampler = [part.tolist() for part in parts]
        loader = DataLoader(self.rows, batch_sampler=sampler, num_workers=self.workers)
        for part, images in zip(parts, loader, strict=True):
            yield images, self.labels[part]


def step_count(images: int, batch_size: int) -> int:
    """Batches per epoch."""
    return -(-images // batch_size)


def make_batches(
    data: LabelledData, preprocess: Preprocess, *, memory_limit: int = MEMORY_LIMIT, workers: int = 0
) -> Batches:
    """Batches of labelled data as a model with this ``preprocess`` wants them (labels must not be None)."""
    rows = _Rows(data, preprocess.model_copy(update={"layout": "NCHW", "baked": False}))
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))
    if len(data) * 3 * 4 * preprocess.size[0] * preprocess.size[1] > memory_limit:
        return Batches(rows, labels, workers)
    return Batches(torch.stack([rows[index] for index in range(len(rows))]), labels)
