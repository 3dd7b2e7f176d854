"""PyTorch operators that coremltools 9.0 translates wrongly, translated here."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from edgevit.export.coreml.quiet import (
    SSAOpRegistry,
    frontend,
    mb,
    register_torch_op,
    sanitize_op_kind,
    translations,
    types,
)


def is_known(node: fx.Node) -> bool:
    """Whether coremltools has a translation of the operator that ``node`` calls."""
    target: Any = node.target
    name = sanitize_op_kind(target.name() if hasattr(target, "name") else target.__name__)
    # it looks into the table twice: for the name as it is first, and then for that of the functional form
    return name in translations.name_to_func_mapping and translations.get_func(name) is not None


# coremltools reads ``approximate`` as a positional argument, which torch.export never writes: tanh became exact.
@register_torch_op(override=True)  # type: ignore[untyped-decorator]
def gelu(context: Any, node: Any) -> None:
    """``F.gelu`` with its ``approximate`` obeyed."""
    approximate = (node.kwinputs or {}).get("approximate", ("none",))[0]
    mode = "TANH_APPROXIMATION" if approximate == "tanh" else "EXACT"
    context.add(mb.gelu(x=context[node.inputs[0]], mode=mode, name=node.name))


# coremltools casts every result to float32, which no gather takes as indices.
@register_torch_op(torch_alias=["floordiv"], override=True)  # type: ignore[untyped-decorator]
def floor_divide(context: Any, node: Any) -> None:
    """``//``: integers of integers."""
    x, y = frontend.promote_input_dtypes(frontend._get_inputs(context, node, expected=2))
    context.add(mb.floor_div(x=x, y=y, name=node.name))


# coremltools leaves a small number under the division, the root and the logarithm that it has for these: 1 / 1e-5 was a
# tenth of itself, and the logarithm of nothing a number.
@register_torch_op(override=True)  # type: ignore[untyped-decorator]
def reciprocal(context: Any, node: Any) -> None:
    """1 / x."""
    x = _real(context[node.inputs[0]])
    context.add(mb.real_div(x=np.ones((), types.nptype_from_builtin(x.dtype)), y=x, name=node.name))


@register_torch_op(override=True)  # type: ignore[untyped-decorator]
def rsqrt(context: Any, node: Any) -> None:
    """1 / √x."""
    context.add(mb.rsqrt(x=_real(context[node.inputs[0]]), epsilon=0.0, name=node.name))


@register_torch_op(override=True)  # type: ignore[untyped-decorator]
def log(context: Any, node: Any) -> None:
    """ln x."""
    context.add(mb.log(x=_real(context[node.inputs[0]]), epsilon=0.0, name=node.name))


def _real(x: Any) -> Any:
    return x if types.is_float(x.dtype) else mb.cast(x=x, dtype="fp32")


# coremltools gives two names to one tensor, and knows the first
@register_torch_op(override=True)  # type: ignore[untyped-decorator]
def clone(context: Any, node: Any) -> None:
    """A tensor of its own; what is not returned is taken out again by coremltools."""
    context.add(mb.identity(x=context[node.inputs[0]], name=node.name))


_where = translations.get_func("where")


# coremltools broadcasts the three to one shape, and fails where they have none
@register_torch_op(torch_alias=["where.self"], override=True)  # type: ignore[untyped-decorator]
def where(context: Any, node: Any) -> None:
    """A choice, of single numbers too."""
    given = [context[name] for name in node.inputs if isinstance(name, str)]
    if len(given) != 3 or any(one.rank for one in given):
        _where(context, node)
        return
    a, b = frontend.promote_input_dtypes(given[1:])
    cond = given[0] if types.is_bool(given[0].dtype) else mb.cast(x=given[0], dtype="bool")
    context.add(mb.select(cond=cond, a=a, b=b, name=node.name))


_MODES = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def scatter_reduce(context: Any, node: Any) -> None:
    """Numbers written along an axis, each combined with what is there."""
    x, dim, index, source = frontend._get_inputs(context, node, min_expected=5)[:4]
    data, updates = frontend.promote_input_dtypes([x, source])
    mode = _MODES[node.inputs[4]]
    made = mb.scatter_along_axis(data=data, indices=index, updates=updates, axis=dim, mode=mode, name=node.name)
    context.add(made)


translations.set_func_by_name(scatter_reduce, "scatter_reduce.two")

# Of constants coremltools computes it at once, and writes over what the mode would combine.
for _version in SSAOpRegistry.core_ops["scatter_along_axis"].values():
    _version.value_inference = lambda self: None
