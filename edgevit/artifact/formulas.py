"""Sides of tensors that follow the size of an image, as a manifest writes them: "height", "2*width", "(height+3)//4".

Whole numbers, ``height``, ``width``, and + - * // % of them: a formula is read, never run.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

MAX_LENGTH = 300  # characters
_DEEPEST, _LARGEST = 60, 1 << 62
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


def side_of(formula: str, size: tuple[int, int]) -> int:
    """What a formula says for an image of (height, width). ValueError for what is no formula, or no side."""
    try:
        found = _value(_tree(formula), {"height": size[0], "width": size[1]}, _DEEPEST)
    except ZeroDivisionError:
        found = 0
    if found < 1:
        raise ValueError(f"{formula!r} is no side of a tensor for an image of {size[0]}×{size[1]}")
    return found


@lru_cache(maxsize=256)
def _tree(formula: str) -> ast.expr:
    if len(formula) > MAX_LENGTH:
        raise ValueError("a formula is too long")
    try:
        return ast.parse(formula, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{formula!r} is no formula of height and width") from None


def _value(node: ast.expr, names: Mapping[str, int], depth: int) -> int:
    found: int | None = None
    if isinstance(node, ast.Constant) and type(node.value) is int:
        found = node.value
    elif isinstance(node, ast.Name):
        found = names.get(node.id)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS and depth:
        left, right = (_value(side, names, depth - 1) for side in (node.left, node.right))
        found = _OPERATORS[type(node.op)](left, right)
    if found is None or abs(found) > _LARGEST:
        raise ValueError(f"{ast.unparse(node)!r} is no formula of height and width")
    return found
