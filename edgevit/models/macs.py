"""How large and how much work a model is: parameters, and multiply-accumulates of one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from edgevit.models.eager.copying import copied
from edgevit.models.eager.faults import contained
from edgevit.models.eager.watching import Watching

Found = TypeVar("Found")


def count_params(module: nn.Module) -> int:
    """Parameters, shared ones counted once. Buffers (running statistics, gathered bias tables) are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(
    module: nn.Module,
    image_size: int | tuple[int, int] | None = None,
    *,
    inputs: Sequence[Tensor] | None = None,
    in_chans: int = 3,
) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention: for ``inputs`` or one image.

    Counted in eval mode on a copy without data, so that a large model costs neither time nor memory. A module that
    cannot run without data (it branches on values, or makes tensors on the CPU) is counted on a real run.
    """
    if inputs is None:
        if image_size is None:
            raise ValueError("count_macs needs image_size or inputs")
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        inputs = [torch.empty(1, in_chans, height, width, dtype=_dtype_of(module), device="meta")]
    try:
        with torch.device("meta"):  # for tensors that forward makes
            return _count(_without_norms(hollow_copy(module).eval()), [value.to("meta") for value in inputs])
    except Exception:  # whatever a forward raises that meets no data
        device = next((p.device for p in module.parameters() if p.device.type != "meta"), torch.device("cpu"))
        return _count(copied(module).eval(), [torch.zeros_like(value, device=device) for value in inputs])


def hollow_copy(module: nn.Module) -> nn.Module:
    """A deep copy on the meta device; the data of parameters and buffers is never copied."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copied(module, memo=memo).to("meta")


def _without_norms(hollow: nn.Module) -> nn.Module:
    """``hollow`` with its BatchNorms passing their input on: they have no MACs, and are slow without data."""
    for module in hollow.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.forward = _pass_on
    return hollow


def _pass_on(value: Tensor) -> Tensor:
    return value


def _dtype_of(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


class _Counter(Watching):
    """Counts the floating-point operations of what is called inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        counts = flop_registry.get(func.overloadpacket)
        if counts is None:
            with self:  # an operator that is made of others counts as they do
                made = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if made is NotImplemented else made
        result = func(*args, **kwargs)
        self.flops += counts(*args, **kwargs, out_val=result)
        return result


def _count(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    with torch.no_grad(), _Counter() as counter, contained():
        module(*inputs)
    return int(counter.flops) // 2


def dry_run(module: nn.Module, size: tuple[int, int], channels: int = 3) -> Any:
    """The output for one image of ``size``, or the exception; without data where the model can do that."""
    try:
        return asked_of_copy(lambda one, image: one(image), module, size, channels)
    except Exception as exc:  # any failure of the user's own code is the answer
        return exc


def asked_of_copy(
    ask: Callable[[nn.Module, Tensor], Found], module: nn.Module, size: tuple[int, int], channels: int
) -> Found:
    """What ``ask`` finds of a copy of the module and one image; without data where the model can do that."""
    image = torch.empty(1, channels, *size)
    with torch.no_grad():
        try:
            with torch.device("meta"), contained():
                return ask(hollow_copy(module).eval(), image.to("meta"))
        except Exception:  # perhaps only because there is no data: ask again with some
            with contained():
                return ask(copied(module).eval(), image.zero_())
