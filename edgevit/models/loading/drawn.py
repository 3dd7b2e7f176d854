"""Which weights of a model were drawn at random while it was made, and not loaded over since.

A factory that loads its own checkpoint and one that loads nothing look the same from outside; what is computed is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode

_FILLS = ("copy_", "fill_", "zero_", "set_")  # what was there before does not matter


class Drawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows random numbers through every operator that is called inside the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Kept, so that no other tensor comes to lie where a random one was.
        self._random: dict[int, UntypedStorage] = {}

    def names(self, module: nn.Module) -> list[str]:
        """The parameters and buffers that hold random numbers."""
        return [name for name, value in module.state_dict(keep_vars=True).items() if self._holds(value)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        sources = args[1:] if name in _FILLS else args
        random = torch.Tag.nondeterministic_seeded in func.tags or any(map(self._holds, _tensors((sources, kwargs))))
        for value in _tensors(result):
            self._note(value, random)
        return result

    def _holds(self, value: Any) -> bool:
        return isinstance(value, Tensor) and _place(value) in self._random

    def _note(self, value: Tensor, random: bool) -> None:
        place = _place(value)
        if random and place:
            self._random[place] = value.untyped_storage()
        elif place in self._random and value.numel() * value.element_size() >= value.untyped_storage().nbytes():
            del self._random[place]  # all of it is something else now


def _place(value: Tensor) -> int:
    """Where its data lies; 0 where it has none."""
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # lazy, sparse, or of a wrapper
        return 0


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
