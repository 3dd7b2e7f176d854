"""Folding of modules that bring their own method for it, each proved before it is believed.

Conventions differ: timm's MobileOne and FastViT blocks edit themselves, its LeViT and EfficientFormerV2 layers return
a new module, RepVGG-style code says ``switch_to_deploy``, and a ``fuse`` may have nothing to do with any of it. So the
method is tried on a copy, outermost module first (an outer method may expect its children unfused), the result is
compared in float64 on what the module really receives in the model, and kept only when equal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.models.eager.copying import copied
from edgevit.models.eager.promotion import default_dtype
from edgevit.models.eager.wrappers import HOOKED, hooked
from edgevit.models.layers import fusion
from edgevit.models.reparam.own import replace_module
from edgevit.models.reparam.plan import Plan
from edgevit.models.reparam.proof import TOLERANCE, Call, capture, relative_error, run

METHODS = ("fuse", "reparameterize", "switch_to_deploy")


def fold_by_methods(plan: Plan) -> None:
    """Call what modules offer under ``METHODS`` wherever the outcome is proved equal; say why where it is not."""
    settled: dict[int, nn.Module] = {}  # by id, holding the module so that its id stays taken
    while paths := [path for path, m in plan.root.named_modules() if id(m) not in settled and methods_of(m)]:
        calls = capture(plan.root, paths, plan.inputs) if plan.inputs is not None else {}
        modules = {path: plan.root.get_submodule(path) for path in paths}
        for path, module in modules.items():
            if _find(plan.root, path) is not module:
                continue  # it went with a module around it
            settled[id(module)] = module
            if method := _proved_method(plan, path, module, calls.get(path, [])):
                plan.take(partial(call_method, path=path, method=method), f"{type(module).__name__}.{method}()")
                new = plan.root.get_submodule(path)
                settled[id(new)] = new  # it may still offer the method; its children get their turn


def fold_neighbours(plan: Plan) -> None:
    """A linear map and a BatchNorm next to each other in an nn.Sequential: for models that cannot be traced."""
    for pair in list(_neighbours(plan.root)):
        parent, linear, norm = pair
        calls = capture(plan.root, [parent], plan.inputs)[parent] if plan.inputs is not None else None
        if calls is not None:
            trial = copied(plan.root.get_submodule(parent))
            change = partial(_run_neighbours, trial, linear, norm)
            if reason := _difference(change, calls):
                plan.left[f"{parent}.{norm}".lstrip(".")] = reason
                continue
        prefix = f"{parent}." if parent else ""
        plan.take(partial(fold_norm_after, linear=prefix + linear, norm=prefix + norm), "conv-bn")


def methods_of(module: nn.Module) -> list[str]:
    """Names under ``METHODS`` that its class defines and that can be called without arguments."""
    return [name for name in METHODS if _callable_bare(getattr(type(module), name, None))]


def call_method(root: nn.Module, *, path: str, method: str) -> nn.Module:
    """Call it; the module itself was edited, or the module that it returned takes its place."""
    module = root.get_submodule(path)
    with torch.no_grad(), default_dtype(torch.float64):
        returned = getattr(module, method)()
    return replace_module(root, path, returned.eval()) if isinstance(returned, nn.Module) else root


def fold_norm_after(root: nn.Module, *, linear: str, norm: str) -> nn.Module:
    """``norm(linear(x))`` into the layer at ``linear``; what the norm module did besides (an activation) stays."""
    layer, bn = root.get_submodule(linear), root.get_submodule(norm)
    if not isinstance(bn, _BatchNorm):
        raise TypeError(f"{norm} is not a BatchNorm")
    if isinstance(layer, nn.Conv2d):
        adopt(layer, fusion.fuse_conv_bn(layer, bn))
    elif isinstance(layer, nn.Linear):
        adopt(layer, fusion.fuse_linear_bn(layer, bn))
    return replace_module(root, norm, without_norm(bn))


def adopt(layer: nn.Module, fused: nn.Conv2d | nn.Linear) -> None:
    """Give ``layer`` the tensors of ``fused``; its class stays, with what its forward does besides (padding, say)."""
    layer.weight = fused.weight
    layer.register_parameter("bias", fused.bias)  # type: ignore[arg-type]  # a Parameter, though annotated Tensor


def without_norm(bn: nn.Module) -> nn.Module:
    """What is left of a BatchNorm once it is folded: nothing, or the activation of timm's BatchNormAct2d."""
    rest = [m for m in (getattr(bn, "drop", None), getattr(bn, "act", None)) if isinstance(m, nn.Module)]
    rest = [m for m in rest if not isinstance(m, nn.Identity)]
    return nn.Identity() if not rest else rest[0] if len(rest) == 1 else nn.Sequential(*rest)


def _callable_bare(method: Any) -> bool:
    if not inspect.isfunction(method):
        return False
    _, *parameters = inspect.signature(method).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _proved_method(plan: Plan, path: str, module: nn.Module, calls: list[Call]) -> str | None:
    for method in methods_of(module):
        if why := _untried(module, calls):
            plan.left[path] = f"{method}() was not called: {why}"
            continue
        trial = copied(module)
        try:
            new = call_method(trial, path="", method=method)
        except Exception as exc:  # foreign code may raise anything; the copy is thrown away
            plan.left[path] = f"{method}() raised {type(exc).__name__}: {exc}"
            continue
        if _shape_of(new) == _shape_of(module):
            continue  # nothing to fold, or already folded
        reason = _difference(partial(run, new), calls)
        if reason is None:
            plan.left.pop(path, None)
            return method
        plan.left[path] = f"{method}() was undone: {reason}"
    return None


def _untried(module: nn.Module, calls: list[Call]) -> str | None:
    """Why no method of ``module`` is called at all, or None."""
    if any(map(hooked, module.modules())):
        return HOOKED
    return None if calls else "the module does not run in this model, so nothing proves it"


def _difference(forward: Callable[..., Any], calls: list[Call]) -> str | None:
    """Why ``forward`` is not the module that made ``calls``, or None where it is equal."""
    for call in calls:
        try:
            error = relative_error(call.output, forward(call.args, call.kwargs))
        except Exception as exc:  # foreign code may raise anything
            return f"the result raised {type(exc).__name__}: {exc}"
        if error > TOLERANCE:
            return f"the result differs by {error:.1e}"
    return None if calls else "it does not run in this model, so nothing proves it"


def _run_neighbours(parent: nn.Module, linear: str, norm: str, args: Any, kwargs: Any) -> Any:
    if isinstance(getattr(parent, norm), _BatchNorm):
        fold_norm_after(parent, linear=linear, norm=norm)
    return run(parent, args, kwargs)


def _neighbours(root: nn.Module) -> Iterator[tuple[str, str, str]]:
    paths = [id(m) for _, m in root.named_modules(remove_duplicate=False)]
    for path, module in root.named_modules():
        if type(module).forward is not nn.Sequential.forward:
            continue
        for (first, layer), (second, norm) in pairwise(module._modules.items()):
            plain = type(layer) in (nn.Conv2d, nn.Linear) and isinstance(norm, _BatchNorm)
            plain = plain and not hooked(layer) and not hooked(norm)
            if plain and norm.running_mean is not None and paths.count(id(layer)) == paths.count(id(norm)) == 1:
                yield path, first, second


def _find(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _shape_of(module: nn.Module) -> tuple[Any, ...]:
    """Its classes and tensor shapes: what changes when anything is folded."""
    return (
        [(name, type(m)) for name, m in module.named_modules()],
        [(name, tuple(t.shape)) for name, t in module.state_dict().items()],
    )
