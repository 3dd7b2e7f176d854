"""What is wrong with a model itself, in words: nothing can be proved equal to answers that are no numbers, or move."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgevit.errors import ParityFailed, Unsupported

SHOWN = 3


def no_numbers(module: nn.Module, where: str) -> ParityFailed:
    """The error for a model that answers NaN or infinity; ``where`` says to what."""
    for wrong, names in unsound_weights(module).items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ParityFailed(
            f"the weights hold {wrong}: {', '.join(names[:SHOWN])}{more}",
            hint="load other weights: these were broken before they came here",
        )
    return ParityFailed(
        f"the model itself answers NaN or infinity: {where}",
        hint="return a large number in its place (-1e4, say): equality with what is no number cannot be proved",
    )


def unsound_weights(module: nn.Module) -> dict[str, list[str]]:
    """Names of tensors that hold NaN, and of parameters that hold infinity: a buffer may, as a mask."""
    parameters = dict(module.named_parameters())
    found = {
        "NaN": [
            name for name, value in {**parameters, **dict(module.named_buffers())}.items() if _any(torch.isnan, value)
        ],
        "infinity": [name for name, value in parameters.items() if _any(torch.isinf, value)],
    }
    return {wrong: names for wrong, names in found.items() if names}


def moving(random: bool) -> Unsupported:
    """The error for a model whose answers change from call to call, by chance or because its state moves."""
    if random:
        return Unsupported(
            "the model's answers change from call to call: its forward draws random numbers, in eval mode too",
            hint="make dropout and noise depend on self.training",
        )
    return Unsupported(
        "the model's answers change from call to call: its forward changes what it computes with (a buffer, a counter)",
        hint="let forward change state only where self.training is true",
    )


def _any(found: Callable[[Tensor], Tensor], value: Tensor) -> bool:
    return value.is_floating_point() and bool(found(value.detach()).any())
