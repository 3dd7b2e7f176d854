"""What a trace takes for granted of the sizes of its inputs, and for which sizes it does not hold.

torch.export goes one way at every ``if`` and notes what it asked. Of what it notes, bounds of one side are refused by
torch itself; the rest (``height > width``, ``width % 7 > 0``, a product of both) it leaves to whoever runs the program.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from types import CodeType

import torch

Shape = tuple[int, ...]

MOST = 96  # sizes of one side that are looked at
_APART = 2 * 3 * 5 * 7 * 11 * 13  # a step that shares no factor with it meets every remainder


class _Shaped:
    """Stands for the inputs, and for each of them: all that is free of their shapes is one image's, or the rows."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def __getitem__(self, _: object) -> _Shaped:
        return self

    def size(self) -> Shape:
        return self.shape


def doubtful(program: torch.export.ExportedProgram, shapes: Iterable[Shape]) -> list[Shape]:
    """Of every condition that the trace took for granted and that does not hold for all of ``shapes``: the first shape
    that breaks it, and one in the middle."""
    conditions = [compile(text, "<guard>", "eval") for text in getattr(program, "_guards_code", ())]
    if not conditions:
        return []
    listed, found = list(shapes), dict[Shape, None]()
    for condition in conditions:
        broken = [shape for shape in listed if not _holds(condition, shape)]
        found |= dict.fromkeys([*broken[:1], *broken[len(broken) // 2 :][:1]])
    return list(found)


def _holds(condition: CodeType, shape: Shape) -> bool:
    with contextlib.suppress(ArithmeticError, ValueError, LookupError):
        return bool(eval(condition, {"L": _Shaped(shape), "math": math, "torch": torch}))  # torch's own words
    return False


def thinned(sides: Sequence[int]) -> list[int]:
    """Some of many sides: the first of them, the last, and between them so many that no remainder is left out."""
    if len(sides) <= MOST:
        return list(sides)
    step = 2 * len(sides) // MOST
    while math.gcd(step, _APART) != 1:
        step += 1
    return sorted({*sides[: MOST // 2], *sides[::step], sides[-1]})
