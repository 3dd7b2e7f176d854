"""Products of 8-bit integers are exact, whatever the sizes, and taken by four where the machine has VNNI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("tvm")
from tvm_kernels import function, run, tensor

from edgevit.export.tvm import operators, schedules, targets
from edgevit.export.tvm.schedules import packing

VNNI = targets.choose(arch="host", target='{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4"}', cores=1)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def steps_at_once(kernel: Any) -> int:
    """Products that one step of the kernel's loops adds up, on a machine with VNNI."""
    attributes = schedules.schedule(kernel, VNNI).attrs
    return packing.Packing.decode(attributes["edgevit.packed"]).depth if "edgevit.packed" in attributes else 1


@pytest.mark.parametrize(
    ("rows", "steps", "columns", "depth"),
    [(1, 4, 16, 4), (7, 48, 17, 4), (13, 192, 40, 4), (5, 33, 24, 1), (9, 64, 10, 1)],
    ids=["one row", "a panel that overlaps", "many", "no multiple of four", "narrower than a vector"],
)
def test_a_product_of_integers_is_exact(rows: int, steps: int, columns: int, depth: int) -> None:
    x, w = tensor("x", rows, steps, dtype="uint8"), tensor("w", steps, columns, dtype="int8")
    a, b = pixels(rows, steps), weights(steps, columns)
    product = operators.matmul(x, w, "int32")
    assert steps_at_once(function([x, w], product, constants=[1])) == depth
    assert np.array_equal(run([x, w], product, [a, b], constants=[1]), a.astype(np.int64) @ b)


@pytest.mark.parametrize(
    ("channels", "groups", "outputs", "stride", "dilation", "depth"),
    [(8, 1, 16, 1, 1, 4), (32, 2, 32, 2, 1, 4), (48, 3, 48, 1, 2, 4), (12, 2, 32, 1, 1, 1), (16, 16, 16, 1, 1, 1)],
    ids=["whole", "two groups", "three groups, dilated", "six of a group", "depthwise"],
)
def test_a_convolution_of_integers_is_exact(
    channels: int, groups: int, outputs: int, stride: int, dilation: int, depth: int
) -> None:
    a, b = pixels(2, 9, 10, channels), weights(3, 3, channels // groups, outputs)
    kernel = operators.by_group(b, groups) if groups > 1 else b
    x, w = tensor("x", *a.shape, dtype="uint8"), tensor("w", *kernel.shape, dtype="int8")
    made = operators.convolution(x, w, [stride] * 2, [0] * 4, [dilation] * 2, groups, "int32")
    want = F.conv2d(
        torch.from_numpy(a.transpose(0, 3, 1, 2).astype(np.float64)),
        torch.from_numpy(b.transpose(3, 2, 0, 1).astype(np.float64)),
        None, stride, 0, dilation, groups,
    )  # fmt: skip
    assert steps_at_once(function([x, w], made, constants=[1])) == depth
    got = run([x, w], made, [a, np.ascontiguousarray(kernel)], constants=[1])
    assert np.array_equal(got.transpose(0, 3, 1, 2), want.numpy())


def test_the_largest_sums_do_not_saturate() -> None:
    x, w = tensor("x", 3, 4096, dtype="uint8"), tensor("w", 4096, 16, dtype="int8")
    a, b = np.full((3, 4096), 255, np.uint8), np.full((4096, 16), -127, np.int8)
    assert (run([x, w], operators.matmul(x, w, "int32"), [a, b], constants=[1]) == -255 * 127 * 4096).all()
