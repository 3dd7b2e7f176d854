"""Sizes of images, as people, checkpoints and models write them. Readable without torch."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, NamedTuple

from edgevit.errors import UsageError

ImageSize = int | tuple[int, int]
Size = tuple[int, int]

MAX_SIDE = 1 << 14  # pixels


class Sides(NamedTuple):
    """A (height, width) that is written as ``--image-size`` takes it: 224, or 224x320."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"


def as_size(value: Any, what: str = "the image size") -> Sides:
    """(height, width) of a number or two, in whatever holds them: int, numpy's, float, list, tensor, "224", "224x320".

    UsageError, with ``what`` it is the size of, for anything else, and for sides that no image has.
    """
    sides = tuple(_side(side) for side in _listed(value))
    if not 1 <= len(sides) <= 2 or not all(1 <= side <= MAX_SIDE for side in sides):
        raise UsageError(
            f"{what} must be 1 or more pixels, or (height, width), not {_shown(value)}",
            hint=f"for example 224, or 224x320; at most {MAX_SIDE}",
        )
    return Sides(sides[0], sides[-1])


def checked_size(name: str, image_size: ImageSize, stride: int) -> Size:
    """``image_size`` as (height, width). UsageError unless both sides are multiples of ``stride``."""
    height, width = as_size(image_size)
    if height % stride or width % stride:
        nearest = Sides(*(max(1, round(side / stride)) * stride for side in (height, width)))
        raise UsageError(
            f"{name} takes images whose sides are divisible by {stride}, not {height}×{width}",
            hint=f"use --image-size {nearest}",
        )
    return height, width


def _listed(value: Any) -> list[Any]:
    """What may be sides, one after the other."""
    if isinstance(value, str):
        return re.split("[x×]", value.strip().lower())
    if hasattr(value, "tolist") and getattr(value, "nbytes", 1 << 30) <= 64:  # of numpy or torch, and no image itself
        with suppress(RuntimeError):  # a tensor without data
            value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value]


def _side(value: Any) -> int:
    """A whole number, or 0 for what is none."""
    if hasattr(value, "item"):
        with suppress(RuntimeError, ValueError):  # more than one number, or none
            value = value.item()
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if isinstance(value, int) or value.is_integer() else 0


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, int | float | str | list | tuple) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"a {type(value).__name__}"
