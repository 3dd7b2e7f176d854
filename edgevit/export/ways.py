"""Ways to run a module: as it is, in float64, with rounding errors made on purpose, rounded to fp16 or bf16.

Their noise is emulated, not run with CPU half kernels: those accumulate in their own ways, lack operators and are slow,
so they would measure the CPU instead of the format. Every operator is computed in float32 and its result rounded to
the type, as an engine with that storage and fp32 accumulation does; weights are rounded once; what the precision plan
keeps stays unrounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgevit.export.capture import Baked, unbaked
from edgevit.models.eager.copying import copied
from edgevit.models.eager.promotion import doubled, in_full, promoted
from edgevit.precisions import BLOCK


@dataclass(frozen=True)
class Way:
    """One way to run a module: the copy it is run on, the type of its float inputs, what is open meanwhile."""

    made: Callable[[nn.Module], nn.Module]
    dtype: torch.dtype
    mode: Callable[[nn.Module], AbstractContextManager[Any]]


def single(module: nn.Module) -> nn.Module:
    """A float32 copy."""
    # By way of train mode: models that cache gathered tables in eval mode drop a cache of the old dtype there.
    return copied(module).float().train().eval()


@contextmanager
def _jittered() -> Iterator[None]:
    with _Jitter(), in_full():
        yield


SINGLE = Way(single, torch.float32, lambda module: nullcontext())
FULL = Way(single, torch.float32, lambda module: in_full())
DOUBLE = Way(doubled, torch.float64, lambda module: promoted())
JITTERED = Way(single, torch.float32, lambda module: _jittered())


class _Jitter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Moves what every operator returns by up to a unit in the last place of float32, at random."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = np.random.default_rng(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.dtype is torch.float32 and value.numel():
                self._move(value)
        return result

    def _move(self, value: Tensor) -> None:
        # a block at a time: what moves a large map would be four times as large
        for part in torch.split(value.view(-1), BLOCK) if value.is_contiguous() else [value]:
            moved = self.generator.uniform(1 - 2.0**-23, 1 + 2.0**-23, tuple(part.shape))
            part.copy_(part.double() * torch.from_numpy(np.asarray(moved)))


def rounded_way(keep: frozenset[str], to: torch.dtype) -> Way:
    """In fp16 or bf16, but for the modules whose paths are in ``keep``."""

    @contextmanager
    def mode(made: nn.Module) -> Iterator[None]:
        kept = keep | {""} if "model" in keep else keep  # how reports name the module whose path is ""
        if isinstance(made, Baked):
            kept = frozenset(path for path, _ in made.named_modules() if unbaked(path) in kept)
        _round_weights(made, kept, to)
        rounding = _Rounding(kept, to)
        hooks = []
        for path, child in made.named_modules():
            hooks.append(child.register_forward_pre_hook(rounding.enter(path)))
            hooks.append(child.register_forward_hook(rounding.leave, always_call=True))
        with rounding, in_full():
            yield
        for hook in hooks:
            hook.remove()

    return Way(single, torch.float32, mode)


def _round_weights(module: nn.Module, keep: frozenset[str], to: torch.dtype) -> None:
    for path, child in module.named_modules():
        if path in keep:
            continue
        for value in [*child.parameters(recurse=False), *child.buffers(recurse=False)]:
            if value.is_floating_point():
                value.data = value.data.to(to).to(value.dtype)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds what every operator returns to fp16 or bf16, but inside kept modules.

    A normalisation or softmax kept in float32 still hands its result on through a cast to fp16.
    """

    def __init__(self, keep: frozenset[str], to: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keep, self.to = keep, to
        self.path: list[str] = [""]

    def enter(self, path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.path.append(path)

        return hook

    def leave(self, *_: Any) -> None:
        self.path.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or self.path[-1] in self.keep:
            return result
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.dtype is torch.float32:
                value.copy_(value.to(self.to))  # in place: the result of an in-place operator is its argument
        return result
