"""What the model tests share: a model moved away from its defaults, its deploy form, and the error between outputs."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import nn

from edgevit.models.reparam.own import fold_own_blocks


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Everything that begins near the identity moved away from it: norms, LayerScales, biases, attention biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if "gamma" in name:
                parameter.copy_(0.3 + 0.2 * noise)
            elif "attention_biases" in name or "table" in name:
                parameter.copy_(noise)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator).to(buffer.dtype))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator).to(buffer.dtype))
    return model.eval()


def deploy(model: nn.Module) -> nn.Module:
    """The deploy form of a copy, by the blocks' own ``fused`` methods alone."""
    return fold_own_blocks(copy.deepcopy(model), Counter()).eval()


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """max |got - expected| / max |expected|."""
    return float((got - expected).abs().max() / expected.abs().max())
