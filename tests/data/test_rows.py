"""Rows of a model's inputs in an .npz, as the command line takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgevit.data.npz import read_rows
from edgevit.errors import UsageError

ROWS = np.ones((16, 3), np.float32)


def test_rows_are_read_by_the_names_of_the_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", tokens=ROWS, mask=ROWS > 0, ids=ROWS.astype(np.int64))
    found = read_rows(tmp_path / "rows.npz", 16)
    assert {name: str(array.dtype) for name, array in found.items()} == {
        "tokens": "float32", "mask": "bool", "ids": "int64",
    }  # fmt: skip
    assert (found["tokens"] == ROWS).all()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "holds no arrays"),
        ({"x": ROWS[:15]}, "has 15 rows; 16 are needed"),
        ({"x": ROWS, "y": ROWS[:8]}, "the numbers of rows differ: x 16, y 8"),
        ({"x": ROWS.astype(np.float64)}, "x is float64, which no artifact takes"),
        ({"x": np.array(["a"] * 16)}, "x is <U1, which no artifact takes"),
        ({"x": np.array([{}] * 16)}, "not a readable .npz of plain arrays"),
        ({"x": np.float32(1)}, r"x has the shape \(\)"),
        ({"x": ROWS[:, :0]}, r"x has the shape \(16, 0\)"),
        ({"x": np.where(np.eye(16, 3), np.nan, 0).astype(np.float32)}, "x holds NaN or infinity"),
    ],
    ids=["empty", "few", "ragged", "double", "text", "pickle", "scalar", "nothing", "nan"],
)
def test_what_are_no_rows_is_one_sentence(tmp_path: Path, arrays: dict, said: str) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(UsageError, match=said) as caught:
        read_rows(tmp_path / "rows.npz", 16)
    assert "rows.npz" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK", b"text", b"\x80\x04N."], ids=["empty", "begun", "text", "pickle"])
def test_what_is_no_npz_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"rows\.npz: not a readable \.npz"):
        read_rows(tmp_path / "rows.npz")
    with pytest.raises(UsageError, match="no such file"):
        read_rows(tmp_path / "none.npz")
