"""Proof by numbers: run modules in float64 on random inputs with randomised statistics, and compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.errors import ParityFailed, UsageError, first_line
from edgevit.models.eager.copying import copied, deep
from edgevit.models.eager.faults import moving
from edgevit.models.eager.outputs import leaves
from edgevit.models.eager.promotion import doubled, promoted
from edgevit.models.reparam.aside import Aside, Kept, all_finite, blocks, cloned, set_aside
from edgevit.models.spec import spec_of

TOLERANCE = 1e-10  # float64 rounding of a deep network stays near 1e-13
SMALL = 1_000_000  # parameters up to which a second row costs nothing worth saving
SMALL_IMAGE = 1 << 16  # pixels, likewise: answers to larger ones can be hundreds of megabytes
SEED = 20_230_817
DAMPINGS = (0.1, 1.0, 10.0)  # tried in turn where rounding itself is amplified beyond the tolerance


@dataclass(frozen=True)
class Call:
    """What one module received and returned in a run, set aside where it is large: of a deep model all of it together
    takes many times what the model does."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def random_inputs(model: nn.Module, example: Tensor | Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """Standard normal inputs in float64: shaped as ``example``, else images of the size the model states, else 224²."""
    generator = torch.Generator().manual_seed(SEED)
    if example is not None:
        given = (example,) if isinstance(example, Tensor) else tuple(example)
        return tuple(_normal(t.shape, generator).to(t.device) if t.is_floating_point() else t.clone() for t in given)
    first = next((p for p in model.parameters()), None)
    channels, height, width = _image_shape(model)
    small = sum(p.numel() for p in model.parameters()) < SMALL and height * width <= SMALL_IMAGE
    images = _normal((2 if small else 1, channels, height, width), generator)
    return (images if first is None else images.to(first.device),)


def run(model: nn.Module, inputs: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
    """The eval-mode output in float64, with a fixed random state so that two runs can be compared."""
    with promoted(), deep(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return model(*cloned(tuple(inputs)), **cloned(kwargs or {}))


def run_whole(model: nn.Module, inputs: Sequence[Any]) -> Any:
    """``run`` for the user's own model: a refusal is a UsageError in words."""
    try:
        return run(model, inputs)
    except Exception as exc:  # a foreign forward may raise anything
        shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
        raise UsageError(f"the model does not run on {shapes}: {first_line(exc)}", hint=_EXAMPLE) from exc


@dataclass(frozen=True)
class Refusal:
    """Why a model that runs in float32 does not in float64."""

    reason: str


def in_float64(model: nn.Module, inputs: Sequence[Any]) -> Any:
    """What a copy of the model answers in float64, set aside, or a ``Refusal``.

    UsageError where it does not run in float32 either: then the inputs are wrong.
    """
    try:
        return set_aside(run(doubled(model), inputs))
    except Exception as exc:  # a foreign forward may raise anything
        single = copied(model).float().eval()
        narrow = tuple(t.float() if t.is_floating_point() else t.clone() for t in inputs)
        try:
            with deep(), torch.no_grad():
                single(*narrow)
        except Exception as refusal:
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise UsageError(f"the model does not run on {shapes}: {first_line(refusal)}", hint=_EXAMPLE) from refusal
        return Refusal(first_line(exc))


_EXAMPLE = "pass example_inputs= with tensors that the model takes"


def capture(model: nn.Module, paths: Iterable[str], inputs: Sequence[Any]) -> dict[str, list[Call]]:
    """One run of ``model``; every call of the modules at ``paths``. A module that is not reached has no calls."""
    calls: dict[str, list[Call]] = {path: [] for path in paths}

    def remember(path: str) -> Any:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls[path].append(Call(set_aside(args), set_aside(kwargs), None))

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            begun = calls[path].pop()
            calls[path].append(Call(begun.args, begun.kwargs, set_aside(output)))

        return before, after

    with contextlib.ExitStack() as hooks:
        for path in calls:
            before, after = remember(path)
            module = model.get_submodule(path)
            # Cloned before the forward: an in-place activation inside would change what was received.
            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        run_whole(model, inputs)
    return calls


def relative_error(expected: Any, found: Any) -> float:
    """max|a - b| / max|a| over all tensors of two outputs; infinite when they are not alike or not finite."""
    left, right = leaves(expected), leaves(found)
    if len(left) != len(right):
        return float("inf")
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        if not isinstance(a, Tensor | Aside) or not isinstance(b, Tensor | Aside):
            worst = max(worst, 0.0 if _same(a, b) else float("inf"))
        elif a.shape != b.shape:
            return float("inf")
        else:
            worst = max(worst, _apart(a, b))
    return worst


def _apart(a: Kept, b: Kept) -> float:
    """The error of one tensor, found a block at a time: copies of answers can be larger than the model."""
    largest = apart = 0.0
    for one, two in zip(blocks(a), blocks(b), strict=True):
        if not (torch.isfinite(one).all() and torch.isfinite(two).all()):
            return float("inf")
        largest = max(largest, float(one.double().abs().max()))
        apart = max(apart, float((one.double() - two.double()).abs().max()))
    return apart / (largest or 1.0)


def finite(output: Any) -> bool:
    """Whether every tensor of an output holds numbers."""
    return all(all_finite(leaf) for leaf in leaves(output) if isinstance(leaf, Tensor | Aside))


def _same(a: Any, b: Any) -> bool:
    """Whether two outputs that are no tensors are alike: arrays by value, objects that do not say by their type."""
    if isinstance(a, Tensor) or isinstance(b, Tensor) or type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    plain = (bool, int, float, complex, str, bytes, type(None))  # other objects are alike when their classes are
    return not isinstance(a, plain) or bool(a == b)


def amplifies_rounding(model: nn.Module, inputs: Sequence[Any]) -> bool:
    """Whether the model is so sensitive on these inputs that even an honest fold would miss ``TOLERANCE``.

    Deep random networks can be chaotic: here a change of 1e-12 in the input would grow ten-thousandfold.
    """
    generator = torch.Generator().manual_seed(SEED)
    moved = [t * (1 + 1e-12 * _normal(t.shape, generator).to(t.device)) if t.is_floating_point() else t for t in inputs]
    return relative_error(set_aside(run_whole(model, inputs)), run_whole(model, moved)) > 1e-8


def require_equal(error: float, what: str, model: nn.Module, inputs: Sequence[Any]) -> float:
    """``error`` as it is. ParityFailed when it is beyond ``TOLERANCE``, or not a number.

    Unsupported where ``model`` does not even agree with itself: then no fold is to blame.
    """
    if not error <= TOLERANCE:
        require_steady(model, inputs)
        raise ParityFailed(
            f"the re-parameterised model differs from the original with {what}: "
            f"relative error {error:.1e} in float64, allowed {TOLERANCE:.0e}",
            hint="export with form='train', and report the model: a fold is wrong",
        )
    return error


def require_steady(model: nn.Module, inputs: Sequence[Any]) -> None:
    """Unsupported for a model that answers the same inputs otherwise the second time."""
    one, other = doubled(model), doubled(model)
    first = set_aside(run_whole(one, inputs))
    if relative_error(first, run_whole(one, inputs)) > TOLERANCE:
        raise moving(random=relative_error(first, run_whole(other, inputs)) > TOLERANCE)


def randomise(model: nn.Module) -> None:
    """Spread what fresh models leave constant, and all that is per channel: biases, affine weights, LayerScale, tables.

    BatchNorm statistics are drawn here, and again in ``calibrated``, which knows what flows through them.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            per_channel = parameter.numel() == max(parameter.shape, default=1)
            if per_channel or bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.3 * _normal(parameter.shape, generator).to(parameter))
        for bn in model.modules():
            if isinstance(bn, _BatchNorm) and bn.running_mean is not None and bn.running_var is not None:
                bn.running_mean.copy_(_normal(bn.running_mean.shape, generator))
                bn.running_var.copy_(1.0 + 0.3 * _normal(bn.running_var.shape, generator)).abs_().add_(0.1)


@contextlib.contextmanager
def calibrated(model: nn.Module, damping: float = DAMPINGS[0]) -> Iterator[None]:
    """While open, each BatchNorm takes random statistics near those of the first batch that reaches it.

    Unrelated statistics would let activations die out or saturate with depth, and the proof would see little.
    ``damping`` adds to the variances: more of it makes the model less sensitive.
    """
    generator = torch.Generator().manual_seed(SEED)
    done: set[int] = set()

    def set_statistics(bn: nn.Module, args: tuple[Any, ...]) -> None:
        if id(bn) in done or not isinstance(bn, _BatchNorm) or bn.running_mean is None or bn.running_var is None:
            return
        done.add(id(bn))
        values = args[0].transpose(0, 1).flatten(1)
        mean, var = values.mean(dim=1), values.var(dim=1, correction=0)
        # Few values per channel (a pooled vector, a 1×1 map) have too little variance: dividing by it would amplify
        # rounding from layer to layer until it shows. Their squares stand in for what is missing.
        var = var + (damping + 1 / values.shape[1]) * values.square().mean() + 1e-6
        bn.running_mean.copy_(mean + 0.3 * var.sqrt() * _normal(mean.shape, generator).to(mean))
        bn.running_var.copy_(var * (0.5 + torch.rand(var.shape, generator=generator, dtype=torch.float64).to(var)))

    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                hooks.callback(module.register_forward_pre_hook(set_statistics).remove)
        yield


def _image_shape(model: nn.Module) -> tuple[int, int, int]:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    spec = spec_of(model)
    if spec is not None and spec.image_size is not None:
        return (channels, *spec.image_size)
    config = getattr(model, "pretrained_cfg", None)  # timm models state their own size here
    stated = config.get("input_size") if isinstance(config, dict) else None
    return (channels, stated[1], stated[2]) if stated else (channels, 224, 224)


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
