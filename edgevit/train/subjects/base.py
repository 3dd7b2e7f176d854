"""What every subject says, and which one some data teaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.data.targets import Targets
from edgevit.train.batches import MEMORY_LIMIT

Array = np.ndarray[Any, Any]


class Subject(Protocol):
    """What the answers of one task are learned from.

    shown  images that a run without ``--epochs`` shows, about
    """

    shown: ClassVar[int]

    def view(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What a step sees: (B, C, H, W) images of these rows, and their truth, changed together."""
        ...

    def loss(self, model: nn.Module, images: Tensor, truth: Tensor, rows: Tensor) -> Tensor:
        """The mean loss of such a batch."""
        ...


class Truth:
    """The targets of a training set in the form that a loss takes, by row: kept where they fit into memory."""

    def __init__(self, targets: Targets, seen: Callable[[Any], Array]) -> None:
        self._targets, self._seen = targets, seen
        self._kept: Tensor | None = None
        if len(targets) and len(targets) * seen(targets[0]).nbytes <= MEMORY_LIMIT:
            self._kept = self._stacked(range(len(targets)))

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self._stacked(rows.tolist()) if self._kept is None else self._kept[rows]

    def _stacked(self, rows: Any) -> Tensor:
        return torch.stack([torch.from_numpy(np.ascontiguousarray(self._seen(self._targets[row]))) for row in rows])
