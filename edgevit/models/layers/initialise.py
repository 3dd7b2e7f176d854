"""Fresh weights of convolutional families."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module) -> None:
    """Fresh weights: convolutions keep the variance of what flows through them, so that an untrained model's outputs
    depend on its input in eval mode too; linear layers as in the paper's code."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
