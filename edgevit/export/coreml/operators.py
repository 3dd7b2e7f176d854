"""PyTorch operators that coremltools 9.0 translates wrongly, translated here."""

from __future__ import annotations

from typing import Any

from torch import fx

from edgevit.export.coreml.quiet import mb, register_torch_op, sanitize_op_kind, translations


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
