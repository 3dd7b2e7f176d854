"""The optimiser's parts: which parameters decay, the learning rate over time, the running average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

_DECAYING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups for AdamW: weights of linear and convolution layers decay; norms, biases, tables and tokens do not."""
    decaying = {id(m.weight) for m in model.modules() if isinstance(m, _DECAYING)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Rate of one of ``steps``: linear up to ``peak`` over the first ``warmup`` share, then a cosine to zero."""
    rising = round(steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """For all of its parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Ema:
    """A copy of a model whose weights (and BatchNorm statistics) are the running average of the model's.

    The decay of update ``t`` is ``min(decay, (1 + t) / (10 + t))``, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every averaged tensor towards the model's; counters are copied."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in averaged], [theirs for _, theirs in averaged], 1 - keep)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
