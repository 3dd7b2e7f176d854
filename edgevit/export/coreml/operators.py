"""PyTorch operators that coremltools 9.0 translates wrongly, translated here."""

from __future__ import annotations

from typing import Any

from torch import fx

from edgevit.export.coreml.quiet import frontend, mb, register_torch_op, sanitize_op_kind, translations


def is_known(node: fx.Node) -> bool:
    """Whether coremltools has a translation of the operator that ``node`` calls."""
    target: Any = node.target
    name = target.name() if hasattr(target, "name") else target.__name__
    return translations.get_func(sanitize_op_kind(name)) is not None


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
