"""Maps resized by a factor that is not the ratio of their sizes, which 1.7 of 10 pixels seldom is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions

from edgevit.export.legalise import Rule, arguments

aten = torch.ops.aten
_WRITTEN: dict[Any, Callable[..., Any]] = get_decompositions(
    [aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec]
)


def is_by_another_scale(node: fx.Node) -> bool:
    """Whether the factors are not the ratio of the sizes: many a converter knows of sizes alone."""
    given: Any = node.args[0]
    scales = arguments(node)["scale_factors"] or ()
    sides = zip(given.meta["val"].shape[2:], node.meta["val"].shape[2:], strict=True)
    return any(scale * side != made for scale, (side, made) in zip(scales, sides, strict=False))


def linear(
    input: Tensor, output_size: Sequence[int] | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> Tensor:
    """As a map of one row."""
    size = None if output_size is None else [1, *output_size]
    factors = None if scale_factors is None else [1.0, *scale_factors]
    found: Tensor = aten.upsample_bilinear2d.vec(input.unsqueeze(2), size, align_corners, factors)
    return found.squeeze(2)


SCALE_RULES = {
    aten.upsample_linear1d.vec: Rule(linear, is_by_another_scale),
    **{operator: Rule(written, is_by_another_scale) for operator, written in _WRITTEN.items()},
}
