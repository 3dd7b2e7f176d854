"""Maps resized by a factor that is not the ratio of their sizes, which 1.7 of 10 pixels seldom is; and to a size that
follows the image's, where a converter knows of factors alone."""

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


def follows(node: fx.Node) -> bool:
    """Whether the size that is asked for follows the image's."""
    return any(isinstance(side, fx.Node) for side in arguments(node)["output_size"] or ())


def _by_factor(operator: Any) -> Callable[..., Any]:
    names = [argument.name for argument in operator._schema.arguments]

    def by_factor(*given: Any, **named: Any) -> Any:
        asked = {**dict(zip(names, given, strict=False)), **named}
        size, sides = asked["output_size"], asked["input"].shape[2:]
        if _open(size or ()):
            if tuple(sides) == (1, 1):
                return asked["input"].expand(*asked["input"].shape[:2], *size)
            factors = _factors(size, sides)
            made = {**asked, "output_size": None, "scale_factors": factors}
            return NotImplemented if factors is None else operator(**made)
        left = size is not None or operator not in _WRITTEN or _open(sides)
        return NotImplemented if left else _WRITTEN[operator](*given, **named)

    return by_factor


def _open(sides: Sequence[Any]) -> bool:
    return any(isinstance(side, torch.SymInt) for side in sides)


def _factors(sizes: Sequence[Any], given: Sequence[Any]) -> list[float] | None:
    """Sizes as whole multiples of those that are given, where they are so for every image of the range; else None."""
    ratios = [_expression(size) / _expression(side) for size, side in zip(sizes, given, strict=True)]
    return [float(ratio) for ratio in ratios] if all(ratio.is_Integer for ratio in ratios) else None


def _expression(side: Any) -> Any:
    import sympy  # type: ignore[import-untyped]

    return side.node.expr if isinstance(side, torch.SymInt) else sympy.Integer(side)


def _needed(node: fx.Node) -> bool:
    return follows(node) or is_by_another_scale(node)


SCALE_RULES = {
    aten.upsample_linear1d.vec: Rule(linear, is_by_another_scale),
    aten.upsample_trilinear3d.vec: Rule(_WRITTEN[aten.upsample_trilinear3d.vec], is_by_another_scale),
    aten.upsample_bilinear2d.vec: Rule(_by_factor(aten.upsample_bilinear2d.vec), _needed),
    aten.upsample_nearest2d.vec: Rule(_by_factor(aten.upsample_nearest2d.vec), follows),
}
