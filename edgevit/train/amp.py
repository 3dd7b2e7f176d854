"""Steps in mixed precision, through Hugging Face Accelerate: weights stay float32, products are bf16 or fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgevit import registry


class MixedPrecision:
    """Accelerate's autocast and, for fp16, its loss scaling; one run's own, as it keeps that run's optimiser."""

    def __init__(self, precision: Literal["bf16", "fp16"], device: torch.device) -> None:
        registry.need("mixed precision", ("accelerate",), "edgevit[split]")
        from accelerate import Accelerator

        self.accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        self._scaled: Any = None  # the run's optimiser with Accelerate's loss scaling

    def autocast(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def follow(self, loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
        """One step; with fp16, a step whose scaled gradient overflows is left out and the scale lowered."""
        if self._scaled is None:
            self._scaled = self.accelerator.prepare_optimizer(optimizer)
        self._scaled.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(model.parameters(), clip)
        self._scaled.step()
