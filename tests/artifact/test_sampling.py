"""Of large rows golden.npz keeps a sample, and figures that no right answer can miss and few wrong ones meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.artifact.manifest import TensorSpec
from edgevit.artifact.sampling import (
    SAMPLE_BYTES,
    figures_of,
    further_off,
    miscounted,
    sample_of,
    sampled,
    spec_of_sample,
)

MAP = (10, 330, 330)  # float32: 4.36 MB


def wide(shape: tuple[int, ...] = MAP) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_rows_up_to_four_mebibytes_are_kept_whole() -> None:
    assert sample_of(np.zeros((2, 1024, 1024), np.float32), ranked=False) is None
    assert sample_of(np.zeros((2, 1024, 1025), np.float32), ranked=False) is not None


def test_a_sample_does_not_keep_its_row_in_memory() -> None:
    row = wide()
    assert sampled(row, sample_of(row[None], ranked=False)).base is None


@pytest.mark.parametrize("shape", [MAP, (150, 256, 256), (2_000_003,), (3, 1200, 1024)], ids=str)
def test_a_sample_is_bounded_and_meets_every_channel_line_and_column(shape: tuple[int, ...]) -> None:
    row = np.zeros(shape, np.float32)
    sample = sample_of(row[None], ranked=False)
    assert sample is not None
    kept = sampled(row, sample)
    assert kept.nbytes <= SAMPLE_BYTES
    spec = TensorSpec(name="x", dtype="float32", shape=(1, *shape), role="tensor")
    assert spec_of_sample(spec, sample).shape == (1, *kept.shape)
    places = np.unravel_index(np.arange(0, row.size, sample.stride), shape)
    assert [len(np.unique(place)) for place in places] == [min(side, len(kept)) for side in shape]


def test_ranked_rows_keep_their_ranks() -> None:
    rows = np.zeros((1, 40, 180, 180), np.float32)
    sample = sample_of(rows, ranked=True)
    assert sample is not None
    assert sampled(rows[0], sample).shape[0] == 40
    assert sampled(rows[0], sample).nbytes <= SAMPLE_BYTES


def test_the_scale_is_that_of_the_whole_rows() -> None:
    row = wide()
    row[3, 1, 1] = -77.0
    sample = sample_of(row[None], ranked=False)
    assert sample is not None
    assert sample.scale == 77.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-6, 1e-1))
def test_figures_are_no_further_off_than_the_worst_value(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    row = rng.normal(size=(3, 50, 50))
    moved = row + rng.uniform(-size, size, row.shape)
    assert further_off(moved, figures_of(row)) <= np.abs(moved - row).max() * (1 + 1e-9)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: np.where(np.arange(len(row))[:, None, None] == 7, 0, row),
        lambda row: row * 1.01,
        lambda row: row + 0.01,
    ],
    ids=["a channel lost", "scaled", "shifted"],
)
def test_figures_betray_what_is_wrong_beside_the_sample(spoil) -> None:
    assert further_off(spoil(wide()), figures_of(wide())) > 5e-3


def test_a_stretch_with_values_that_are_not_clear_says_nothing() -> None:
    clear = np.ones(MAP, bool)
    clear[0, 0, 0] = False
    due = figures_of(wide(), clear)
    assert np.isnan(due[0]).all()
    moved = wide()
    moved[0, 0, 0] = 100.0
    assert further_off(moved, due) == 0.0
    moved[9, 329, 329] = 100.0
    assert further_off(moved, due) > 90


def test_labels_are_counted_and_may_differ_where_they_are_not_clear() -> None:
    labels = np.zeros((2000, 2000), np.int64)
    clear = np.ones(labels.shape, bool)
    clear[0, :5] = False
    due = figures_of(labels, clear, decided=True)
    labels[0, :5] = 3
    assert miscounted(labels, due) == 0
    labels[0, 5:7] = 3
    assert miscounted(labels, due) == 2
    labels[1999] = 4
    assert miscounted(labels, due) == 2002
