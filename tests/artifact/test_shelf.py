"""Rows that are large lie on the disk, are read one by one, and are gone with the last that looks at them."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifact.shelf import ROW_BYTES, Shelf, error_of_rows, gathered, load_rows, save_rows

WIDE = ROW_BYTES // 4 + 8  # values of float32 that make a row large


def rows(count: int = 3, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2, WIDE // 2)).astype(dtype)


def test_small_rows_stay_an_array_and_large_ones_go_to_the_disk() -> None:
    found = gathered(
        iter([{"small": np.ones((2, 3)), "large": rows(2)}, {"small": np.ones((2, 3)), "large": rows(2)}]), 3
    )
    assert isinstance(found["small"], np.ndarray)
    assert found["small"].shape == (3, 3)
    assert isinstance(found["large"], Shelf)
    assert found["large"].shape == (3, 2, WIDE // 2)
    assert found["large"].path.stat().st_size == 3 * WIDE * 4


def test_a_row_of_a_shelf_is_what_was_put_there_in_the_type_of_artifacts() -> None:
    shelf = gathered([{"x": rows()}], 3)["x"]
    assert shelf.dtype == np.float32
    for got, want in zip(shelf, rows(), strict=True):
        np.testing.assert_array_equal(got, want.astype(np.float32))
    np.testing.assert_array_equal(shelf[:2][1], shelf[1])
    assert len(shelf[:2]) == 2
    with pytest.raises(IndexError):
        shelf[:2][2]


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_], ids=str)
def test_labels_and_masks_keep_their_type(dtype: type) -> None:
    wide = np.ones((2, ROW_BYTES + 1), dtype)
    shelf = gathered([{"x": wide}], 2)["x"]
    assert isinstance(shelf, Shelf)
    assert shelf.dtype == dtype
    np.testing.assert_array_equal(shelf[1], wide[1])


def test_the_file_is_gone_with_the_shelf() -> None:
    shelf = gathered([{"x": rows()}], 3)["x"]
    assert isinstance(shelf, Shelf)
    path, head = shelf.path, shelf[:1]
    del shelf
    gc.collect()
    assert path.exists()
    assert head.shape[0] == 1
    del head
    gc.collect()
    assert not path.parent.exists()


def test_another_process_finds_the_rows_by_the_file_that_names_them(tmp_path: Path) -> None:
    found = gathered([{"wide": rows(), "small": np.arange(3)}], 3)
    save_rows(tmp_path / "rows.npz", found)
    again = load_rows(tmp_path / "rows.npz")
    assert (tmp_path / "rows.npz").stat().st_size < 10_000
    np.testing.assert_array_equal(again["small"], [0, 1, 2])
    assert error_of_rows(again["wide"], found["wide"]) == 0.0
    assert error_of_rows(again["wide"], found["wide"][:2]) == float("inf")


def test_what_a_part_lacks_is_filled_where_a_value_for_it_is_given() -> None:
    parts = [{"a": np.zeros((2, 1))}, {"a": np.zeros((2, 1)), "b": np.ones((2, 3))}, {"a": np.zeros((2, 1))}]
    found = gathered(iter(parts), 5, absent=np.inf)
    assert found["a"].shape == (5, 1)
    assert found["b"].tolist() == [[np.inf] * 3] * 2 + [[1.0] * 3] * 2 + [[np.inf] * 3]
    with pytest.raises(ValueError, match="other names"):
        gathered(iter(parts), 5)
