"""What an artifact is compared with: the eager model in float64, and the noise that its own precision makes.

fp16 noise is emulated, not run with CPU half kernels: those accumulate in their own ways, lack operators and are slow,
so they would measure the CPU instead of the format. Every operator is computed in float32 and its result rounded to
fp16, as an engine with fp16 storage and fp32 accumulation does; weights are rounded once; what the precision plan
keeps stays unrounded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgevit.artifact.manifest import Array
from edgevit.errors import Unsupported
from edgevit.export.capture import Baked, output_names, run, unbaked

CHUNK = 8


def reference(
    module: nn.Module, inputs: Mapping[str, Array], precision: str, keep_fp32: Collection[str] = ()
) -> tuple[list[Array], float]:
    """(float64 outputs in order, noise): noise is the worst output's max |error| / max |reference|.

    ``keep_fp32`` are the paths of modules that an fp16 build computes in float32.
    """
    exact = float64_outputs(module, inputs)
    return exact, noise(module, inputs, exact, precision, keep_fp32)


def float64_outputs(module: nn.Module, inputs: Mapping[str, Array]) -> list[Array]:
    """The eager model in float64 on every row, in chunks. ``module`` is copied, never edited."""
    # By way of train mode: models that cache gathered tables in eval mode drop a cache of the old dtype there.
    double = copy.deepcopy(module).double().train().eval()
    return _in_chunks(double, inputs, torch.float64)


def noise(
    module: nn.Module, inputs: Mapping[str, Array], exact: list[Array], precision: str, keep_fp32: Collection[str] = ()
) -> float:
    """max |eager in ``precision`` - exact| / max |exact|, the worst output. Unsupported for an unknown precision."""
    single = copy.deepcopy(module).float().train().eval()
    if precision == "fp32":
        outputs = _in_chunks(single, inputs, torch.float32)
    elif precision == "fp16":
        outputs = _half_outputs(single, inputs, frozenset(keep_fp32))
    else:
        raise Unsupported(f"the noise of {precision} cannot be measured eagerly", hint="use fp32 or fp16")
    return max((max_rel(got, want) for got, want in zip(outputs, exact, strict=True)), default=0.0)


def max_rel(got: Array, want: Array) -> float:
    """max |got - want| / max |want|; inf when anything is not a number."""
    error = np.abs(got.astype(np.float64) - want).max(initial=0.0)
    scale = float(np.abs(want).max(initial=0.0))
    return float(error / scale) if np.isfinite(error) and scale > 0 else (0.0 if error == 0 else float("inf"))


def _in_chunks(module: nn.Module, inputs: Mapping[str, Array], dtype: torch.dtype) -> list[Array]:
    rows = len(next(iter(inputs.values())))
    parts: list[list[Array]] = []
    for start in range(0, rows, CHUNK):
        chunk = (torch.from_numpy(np.ascontiguousarray(array[start : start + CHUNK])) for array in inputs.values())
        arguments = tuple(value.to(dtype) if value.is_floating_point() else value for value in chunk)
        outputs = output_names(run(module, arguments), classifier=False)
        parts.append([value.numpy() for value in outputs.values()])  # joined outside torch: _Rounding would round it
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _half_outputs(single: nn.Module, inputs: Mapping[str, Array], keep: frozenset[str]) -> list[Array]:
    if "model" in keep:  # how reports name the module whose path is ""
        keep = keep | {""}
    if isinstance(single, Baked):
        keep = frozenset(path for path, _ in single.named_modules() if unbaked(path) in keep)
    _round_weights(single, keep)
    rounding = _Rounding(keep)
    for path, child in single.named_modules():
        child.register_forward_pre_hook(rounding.enter(path))
        child.register_forward_hook(rounding.leave, always_call=True)
    with rounding:
        return _in_chunks(single, inputs, torch.float32)


def _round_weights(module: nn.Module, keep: frozenset[str]) -> None:
    for path, child in module.named_modules():
        if path in keep:
            continue
        for value in [*child.parameters(recurse=False), *child.buffers(recurse=False)]:
            if value.is_floating_point():
                value.data = _rounded(value.data)


def _rounded(value: Tensor) -> Tensor:
    return value.half().to(value.dtype)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds what every operator returns to fp16, but inside kept modules.

    A normalisation or softmax kept in float32 still hands its result on through a cast to fp16.
    """

    def __init__(self, keep: frozenset[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keep = keep
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
                value.copy_(_rounded(value))  # in place: the result of an in-place operator is its argument
        return result
