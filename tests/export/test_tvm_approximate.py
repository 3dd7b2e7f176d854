"""Our exp, erf, tanh and logistic function against float64, compiled by TVM, over the whole range of float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tvm")
from tvm import te, tirx
from tvm_kernels import run, tensor

SIZE = 1 << 16
EXTREMES = np.array([0.0, -0.0, 1e-45, -1e-38, 1e38, -1e38, np.inf, -np.inf, 88.7, 88.8, -103.9, -104.1], np.float32)


def everywhere() -> np.ndarray:
    """Numbers of every magnitude and both signs, more of them where the functions bend."""
    wide = np.logspace(-38, 38, SIZE)
    found = np.concatenate([wide, -wide, np.linspace(-110, 110, SIZE), np.linspace(-6, 6, SIZE), EXTREMES])
    return found.astype(np.float32)


def exact(function: Callable[[torch.Tensor], torch.Tensor], x: np.ndarray) -> np.ndarray:
    return function(torch.from_numpy(x.astype(np.float64))).numpy()


@pytest.mark.parametrize(
    ("intrinsic", "reference", "ulps"),
    [
        (tirx.exp, torch.exp, 1.5),
        (tirx.sigmoid, torch.sigmoid, 3.5),
        (tirx.erf, torch.erf, 6.5),
        (tirx.tanh, torch.tanh, 6.5),
    ],
    ids=["exp", "logistic", "erf", "tanh"],
)
def test_an_approximation_is_within_a_few_units_in_the_last_place(intrinsic: Any, reference: Any, ulps: float) -> None:
    x = everywhere()
    data = tensor("x", len(x))
    got = run([data], te.compute(data.shape, lambda at: intrinsic(data[at])), [x])
    wanted = exact(reference, x)
    with np.errstate(over="ignore"):
        rounded = wanted.astype(np.float32)
    finite = np.isfinite(rounded) & (np.abs(rounded) > np.finfo(np.float32).tiny)
    error = np.abs(got[finite] - wanted[finite]) / np.spacing(np.abs(rounded[finite]))
    assert error.max() <= ulps
    assert error.mean() < 1
    np.testing.assert_array_equal(np.isinf(got), np.isinf(rounded))
    tiny = np.isfinite(rounded) & ~finite
    assert np.abs(got[tiny] - rounded[tiny]).max() < 1e-37
