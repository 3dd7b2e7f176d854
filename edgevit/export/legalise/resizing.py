"""Antialiased resampling of fixed sizes: one matrix for the rows, and one for the columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from edgevit.export.legalise import Rule

aten = torch.ops.aten
Filter = Callable[[Tensor], Tensor]


def triangle(at: Tensor) -> Tensor:
    return (1 - at.abs()).clamp(min=0)


def cubic(at: Tensor) -> Tensor:
    """Keys' with a = -0.5, which PyTorch has where it antialiases, and only there."""
    x = at.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def antialiased(filtered: Filter) -> Callable[..., Any]:
    def written(
        input: Tensor, output_size: Sequence[int] | None, align_corners: bool, *scales: Any, **named: Any
    ) -> Any:
        sides = input.shape[-2:]
        if any(isinstance(side, torch.SymInt) for side in (*sides, *(output_size or ()))):
            return NotImplemented  # a matrix is of one size
        factors = _factors(scales, named)
        sizes = output_size or [int(side * float(factor or 1)) for side, factor in zip(sides, factors, strict=True)]
        rows, columns = (
            matrix(filtered, side, size, _step(side, size, factor, align_corners), input)
            for side, size, factor in zip(sides, sizes, factors, strict=True)
        )
        return rows @ input @ columns.t()

    return written


def _factors(scales: Sequence[Any], named: dict[str, Any]) -> list[float | None]:
    given = [*scales, *(named[key] for key in ("scale_factors", "scales_h", "scales_w") if key in named)]
    flat = given[0] if given and isinstance(given[0], list | tuple) else given
    return list(flat) if flat and len(flat) == 2 else [None, None]


def _step(side: int, size: int, factor: float | None, align_corners: bool) -> Fraction | float:
    """Pixels of the input for one of the output."""
    if align_corners:
        return Fraction(side - 1, size - 1) if size > 1 else Fraction(0)
    return Fraction(side, size) if not factor else 1 / factor


def matrix(filtered: Filter, side: int, size: int, step: Fraction | float, like: Tensor) -> Tensor:
    """(``size``, ``side``): what every pixel of the input counts for in each of the output."""
    made, given = (2 * torch.arange(count, device=like.device) + 1 for count in (size, side))
    # distances are made of integers where they can be: float32 would lose what is left of two large places
    above, below = (step.numerator, step.denominator) if isinstance(step, Fraction) else (step, 1)
    centres = made * above if isinstance(above, int) else made.to(like.dtype) * above
    apart = (given * below - centres.unsqueeze(1)).to(like.dtype)
    weights = filtered(apart / float(2 * below * max(1, step)))
    return weights / weights.sum(1, keepdim=True)


RESIZING_RULES = {
    operator: Rule(antialiased(filtered))
    for name, filtered in (("bilinear", triangle), ("bicubic", cubic))
    for operator in (getattr(aten, f"_upsample_{name}2d_aa").default, getattr(aten, f"_upsample_{name}2d_aa").vec)
}
