"""The module that a wrapper wraps, with weights that hooks compute computed once.

Unwrapped: DataParallel, DistributedDataParallel, AveragedModel and torch.compile, at the root and below. Computed:
weight and spectral norms, pruning masks, parametrisations. What has no plain module inside is declined by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edgevit.errors import Unsupported
from edgevit.models.eager.copying import copied
from edgevit.models.spec import attach_spec, spec_of

# By name: torch.compile and DistributedDataParallel take a second to import.
_INNER: Mapping[str, str] = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
HOOKED = "it has a hook, or a forward of its own, that a fold would drop"
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
_REMOVERS: Mapping[type, Callable[[nn.Module, str], object]] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    prune.BasePruningMethod: prune.remove,
}


def unwrapped(module: nn.Module) -> nn.Module:
    """``module`` itself where it is plain, else a copy that is; the argument is never edited.

    Unsupported for TorchScript, quantised modules, and lazy ones that have not seen an input.
    """
    inner = _innermost(module)
    _require_plain(inner)
    if inner is module and not any(_inside(m) or _computed(m) for m in module.modules()):
        return module
    found = copied(inner).eval()
    for path, child in list(found.named_modules()):
        if path and _inside(child):
            parent, _, name = path.rpartition(".")
            setattr(found.get_submodule(parent), name, _innermost(child))
    for child in found.modules():
        _compute(child)
    return _described_as(module, found)


def plain(module: nn.Module) -> nn.Module:
    """``module`` as artifacts are built from it: unwrapped, weights in float32."""
    return in_float32(unwrapped(module))


def in_float32(module: nn.Module) -> nn.Module:
    """``module`` itself where its weights are float32, else a copy that is: artifacts are built from float32."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(value.dtype is torch.float32 for value in tensors if value.is_floating_point()):
        return module
    return copied(module).float()


def hooked(module: nn.Module) -> bool:
    """Whether calling it does more than its forward, or another forward than its class says."""
    return _hooks(module) or "forward" in module.__dict__


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _inside(module: nn.Module) -> nn.Module | None:
    for kind in type(module).__mro__:
        if (name := _INNER.get(f"{kind.__module__}.{kind.__qualname__}")) is not None:
            inner: nn.Module = getattr(module, name)
            return inner
    return None


def _innermost(module: nn.Module) -> nn.Module:
    while (inner := _inside(module)) is not None:
        if _hooks(module):
            raise Unsupported(
                f"the {type(module).__name__} around the model has a hook, which the model inside has not",
                hint="register the hook on the model inside the wrapper",
            )
        module = inner
    return module


def _require_plain(module: nn.Module) -> None:
    for path, child in module.named_modules():
        where, kind = f"{path or 'the model'}", type(child).__name__
        if isinstance(child, torch.jit.ScriptModule):
            raise Unsupported(
                f"{where} is TorchScript, which torch.export cannot trace",
                hint="give the nn.Module that it was scripted or traced from",
            )
        if type(child).__module__.startswith(_QUANTISED) or _holds_quantised(child):
            raise Unsupported(
                f"{where} ({kind}) is quantised, and every artifact is built from floats",
                hint="give the float model that it was quantised from",
            )
        if isinstance(child, LazyModuleMixin) and child.has_uninitialized_params():  # type: ignore[misc]
            raise Unsupported(
                f"{where} ({kind}) has no weights until it has seen an input",
                hint="run the model once on an image before you hand it over",
            )


def _holds_quantised(module: nn.Module) -> bool:
    values = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(value.is_quantized or type(value.data) is not Tensor for value in values)


def _computed(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or any(
        isinstance(hook, tuple(_REMOVERS)) for hook in module._forward_pre_hooks.values()
    )


def _compute(module: nn.Module) -> None:
    """Replace what hooks and parametrisations compute before each call by its value; they go."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for hook in list(module._forward_pre_hooks.values()):
            for kind, remove in _REMOVERS.items():
                if isinstance(hook, kind):
                    remove(module, _tensor_of(hook))
        if parametrize.is_parametrized(module):
            _unparametrise(module)


def _unparametrise(module: nn.Module) -> None:
    """What ``remove_parametrizations`` does, but for its edit of the class, which the original module shares."""
    lists: Any = module.parametrizations
    values = {name: getattr(module, name).detach().clone() for name in lists}
    buffers = {name for name, held in lists.items() if "original" in held._buffers}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__mro__[1]  # parametrising made a subclass for this one module
    for name, value in values.items():
        if name in buffers:
            module.register_buffer(name, value)
        else:
            module.register_parameter(name, nn.Parameter(value))


def _tensor_of(hook: Any) -> str:
    """The name of the tensor that a hook computes: pruning spells the attribute otherwise."""
    return str(hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name)


def _described_as(outer: nn.Module, found: nn.Module) -> nn.Module:
    """``found`` with what was said about the model on its wrapper: its spec, its image size."""
    for name in ("image_size", "pretrained_cfg"):
        if name in outer.__dict__:
            setattr(found, name, outer.__dict__[name])
    spec = spec_of(outer)
    return found if spec is None else attach_spec(found, spec)
