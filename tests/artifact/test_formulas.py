"""Sides of tensors as formulas of an image's size: read, never run."""

from __future__ import annotations

import pytest

from edgevit.artifact.formulas import side_of


@pytest.mark.parametrize(
    ("formula", "side"),
    [("height", 9), ("2*width", 14), ("(height - 1)//2 + 1", 5), ("height*width//8+1", 8), ("height%4", 1), ("3", 3)],
)
def test_a_formula_gives_a_side(formula: str, side: int) -> None:
    assert side_of(formula, (9, 7)) == side


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os')", "height**9", "height//0", "height-9", "depth", "True", "1.5", "height.real", "", "(",
        "-height", "9999999999*9999999999*9", "(" * 250 + "1", "1" + "+1" * 149,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_anything_else_is_refused(formula: str) -> None:
    with pytest.raises(ValueError, match=r"formula|side"):
        side_of(formula, (9, 7))
