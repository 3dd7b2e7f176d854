"""Calls that TVM's importer takes and gets wrong: said to be unknown here, and so written out or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from tvm import relax, tirx

from edgevit.errors import Unsupported
from edgevit.export.legalise import arguments
from edgevit.export.legalise.refusals import named
from edgevit.export.legalise.scales import is_by_another_scale
from edgevit.export.tvm.believed import BELIEVED

aten = torch.ops.aten


def misread(node: fx.Node) -> bool:
    """Whether the importer would make another function of this call, or was never seen to make the right one."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return True  # the importer draws once, or makes zeros of it
    wrong = _WRONG.get(node.target)
    believed = BELIEVED.get(getattr(node.target, "__name__", ""), frozenset())
    return not set(settings(node)) <= believed or (wrong is not None and wrong(node))


def check_type(node: fx.Node, found: Any) -> None:
    """Unsupported where the importer made a tensor of another type or shape than PyTorch does."""
    wanted, made = node.meta.get("val"), getattr(found, "ty", None)
    if not isinstance(wanted, torch.Tensor) or not isinstance(made, relax.TensorType) or made.shape is None:
        return
    sizes = [int(each) if isinstance(each, tirx.IntImm) else None for each in made.shape.values]
    fits = len(sizes) == wanted.ndim and all(
        None in pair or not isinstance(pair[1], int) or pair[0] == pair[1]
        for pair in zip(sizes, wanted.shape, strict=True)
    )
    dtype = str(wanted.dtype).removeprefix("torch.")
    if not fits or str(made.dtype) != dtype:
        shape = "×".join("?" if size is None else str(size) for size in sizes) or "one number"
        raise Unsupported(
            f"TVM reads {named(node)} as {made.dtype} {shape}, and it is {dtype} {'×'.join(map(str, wanted.shape))}",
            hint="export to onnx, or replace that operator in the model",
        )


def settings(node: fx.Node) -> list[str]:
    """The arguments of a call that are no tensors, and not as they are by default."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    given = arguments(node)
    return [
        one.name
        for one in node.target._schema.arguments
        if "Tensor" not in str(one.type) and one.name not in _OF_MEMORY and not _default(one, given[one.name])
    ]


def _default(argument: Any, value: Any) -> bool:
    return bool(argument.has_default_value() and argument.default_value == value)


_OF_MEMORY = ("layout", "device", "pin_memory", "memory_format", "non_blocking", "copy", "implicit")


def _by_no_whole_scale(node: fx.Node) -> bool:
    """Nearest pixels by a ratio that is not whole: the importer rounds otherwise."""
    sizes = zip(_sides(node.args[0]), _sides(node), strict=True)
    return is_by_another_scale(node) or any(made % given for given, made in sizes)


def _sides(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape[2:])


def _to_a_corner(node: fx.Node) -> bool:
    """Aligned to the corners of one pixel: the importer divides by the none that are between."""
    return is_by_another_scale(node) or bool(arguments(node).get("align_corners") and 1 in _sides(node))


def _of_integers(node: fx.Node) -> bool:
    return not node.args[0].meta["val"].is_floating_point()  # type: ignore[union-attr]


def _cuts(node: fx.Node) -> bool:
    """Into bfloat16: the importer's cast cuts digits off where PyTorch's rounds."""
    return arguments(node)["dtype"] is torch.bfloat16


_WRONG: Mapping[Any, Callable[[fx.Node], bool]] = {
    aten.upsample_bilinear2d.vec: _to_a_corner,
    aten.upsample_bicubic2d.vec: _to_a_corner,
    aten.upsample_nearest2d.vec: _by_no_whole_scale,
    aten._upsample_nearest_exact2d.vec: is_by_another_scale,
    aten.softmax.int: _of_integers,
    aten.log_softmax.int: _of_integers,
    aten._to_copy.default: _cuts,
    aten.to.dtype: _cuts,
}
