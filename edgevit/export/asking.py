"""What the source model itself answers to many images: in float32, as many of them at once as its memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.artifact.manifest import Array
from edgevit.export.capture import run
from edgevit.export.runs import ROOM
from edgevit.models.eager.copying import copied
from edgevit.models.eager.outputs import named_outputs
from edgevit.models.eager.weighing import Weighing


def logits_of(module: nn.Module, name: str = "logits") -> Callable[[Array], Array | None]:
    """Rows of images -> the float32 model's logits, its output ``name``; None where it has none."""
    asked = _Asked(module, "logits")

    def answer(rows: Array) -> Array | None:
        known = []
        for found in asked.parts(rows):
            if name not in found:
                return None
            known.append(found[name].numpy().copy())  # logits that are a view would keep all that they are of
        logits: Array = np.concatenate(known)
        return logits

    return answer


def outputs_of(module: nn.Module, alone: str) -> Callable[[Array], dict[str, Array]]:
    """Rows of images -> the float32 model's outputs by name, a single one called ``alone``."""
    asked = _Asked(module, alone)

    def answer(rows: Array) -> dict[str, Array]:
        parts = list(asked.parts(rows))
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}

    return answer


class _Asked:
    """A copy of a module: itself it is never run, as its forward may keep what it computes."""

    def __init__(self, module: nn.Module, alone: str) -> None:
        self._module, self._alone = module, alone
        self._fitting = 0  # rows at once; 0 until the first has been weighed

    @cached_property
    def _copy(self) -> nn.Module:
        return copied(self._module)

    def parts(self, rows: Array) -> Iterator[dict[str, Tensor]]:
        """The outputs by name, of rows after rows."""
        start = 0
        while start < len(rows):
            count = self._fitting or 1
            yield self._weighed(rows[:1]) if not self._fitting else self._run(rows[start : start + count])
            start += count

    def _weighed(self, row: Array) -> dict[str, Tensor]:
        with Weighing() as weighing:
            found = self._run(row)
        self._fitting = max(1, ROOM // max(1, weighing.peak))
        return found

    def _run(self, rows: Array) -> dict[str, Any]:
        return named_outputs(run(self._copy, (torch.from_numpy(rows),)), self._alone)
