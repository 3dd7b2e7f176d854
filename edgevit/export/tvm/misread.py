"""Calls that TVM's importer takes and gets wrong: read anew here, or said to be unknown and so written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx
from tvm import relax

from edgevit.export.legalise import arguments

aten = torch.ops.aten


def misread(node: fx.Node) -> bool:
    """Whether the importer would make another function of this call."""
    wrong = _WRONG.get(node.target)
    return wrong is not None and wrong(node)


def _by_another_scale(node: fx.Node) -> bool:
    """A scale was given that is not the ratio of the sizes: the importer knows of sizes alone."""
    scales = arguments(node).get("scale_factors") or ()
    sizes = zip(_sides(node.args[0]), _sides(node), strict=True)
    return any(scale * given != made for scale, (given, made) in zip(scales, sizes, strict=False))


def _by_no_whole_scale(node: fx.Node) -> bool:
    """Nearest pixels by a ratio that is not whole: the importer rounds otherwise."""
    sizes = zip(_sides(node.args[0]), _sides(node), strict=True)
    return _by_another_scale(node) or any(made % given for given, made in sizes)


def _sides(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape[2:])


_WRONG: Mapping[Any, Callable[[fx.Node], bool]] = {
    aten.upsample_bilinear2d.vec: _by_another_scale,
    aten.upsample_bicubic2d.vec: _by_another_scale,
    aten.upsample_nearest2d.vec: _by_no_whole_scale,
    aten._upsample_nearest_exact2d.vec: _by_another_scale,
    aten._upsample_bilinear2d_aa.vec: lambda _: True,  # without its antialiasing
    aten._upsample_bilinear2d_aa.default: lambda _: True,
}


def _extreme(find: Callable[..., Any], bound: Callable[..., Any], worst: float) -> Callable[[fx.Node, Any], Any]:
    """Of argmax and argmin: TVM finds nothing, -1, in a row that is infinite all through, as where all is masked.

    It begins with the least number there is and asks for a larger one: half of it is larger, and less than what counts.
    """

    def convert(node: fx.Node, importer: Any) -> Any:
        given = arguments(node)
        value, emit = importer.env[given["self"]], importer.block_builder.emit
        if str(value.ty.dtype).startswith("float"):
            limit = np.finfo(str(value.ty.dtype))
            value = emit(bound(value, relax.const(np.asarray(worst * (limit.max / 2), limit.dtype))))
        return emit(find(value, given.get("dim"), bool(given.get("keepdim"))))

    return convert


READ_ANEW: Mapping[str, Callable[[fx.Node, Any], Any]] = {
    "argmax.default": _extreme(relax.op.argmax, relax.op.maximum, -1.0),
    "argmin.default": _extreme(relax.op.argmin, relax.op.minimum, 1.0),
}
