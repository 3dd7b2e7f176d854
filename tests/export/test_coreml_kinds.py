"""Booleans, integers and real numbers stay what they are in PyTorch, and integers exact, in both precisions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coreml_tiny import build, captured, eager, run
from torch import Tensor, nn

IMAGES = (np.random.default_rng(0).integers(-32, 32, (16, 3, 16, 16)) / 4).astype(np.float32)  # exact in fp16 too


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image).to(torch.float32)


def whole(x: Tensor) -> Tensor:
    """Integers from -16,000 to 16,000, of both signs."""
    return (x * 4).to(torch.int64) * 501


def attended(x: Tensor, mask: Tensor) -> Tensor:
    rows = x.flatten(2).unsqueeze(1) / 16
    return F.scaled_dot_product_attention(rows, rows, rows, mask)


def some_rows(x: Tensor) -> Tensor:
    """(B, 1, 3, 3): which keys are allowed; none for the last query."""
    mask = (x[:, :, 0, :3] > -9) & (torch.arange(3) < 2)[:, None]
    return mask.unsqueeze(1)


def added(x: Tensor) -> Tensor:
    """The same as numbers that are added, as nn.MultiheadAttention makes them."""
    mask = ~some_rows(x)
    return torch.zeros_like(mask, dtype=x.dtype).masked_fill(mask, -math.inf)


CASES = {
    "zeros like booleans": lambda x: torch.zeros_like(x > 0, dtype=x.dtype).masked_fill(x > 1, 2.5),
    "ones like booleans": lambda x: torch.ones_like(x > 0, dtype=torch.int64) + whole(x),
    "a whole number full like real ones": lambda x: torch.full_like(x, 3) / 2 + x,
    "a real number full like whole ones": lambda x: torch.full_like(whole(x), 2.5, dtype=x.dtype) * x,
    "new ones": lambda x: x + (x > 0).new_zeros(3, 1, 1, dtype=x.dtype) + x.new_full((3, 1, 1), 2) / 4,
    "quotients by a number": lambda x: whole(x) // 7 + whole(x) // -7,
    "quotients of tensors": lambda x: whole(x) // (whole(x.flip(3)) * 2 + 3),
    "quotients of a number": lambda x: 30_000 // (whole(x) * 2 + 3),
    "cut quotients": lambda x: torch.div(whole(x), -7, rounding_mode="trunc"),
    "cut quotients of tensors": lambda x: torch.div(whole(x), whole(x.flip(2)) * 2 + 3, rounding_mode="trunc"),
    "remainders by a number": lambda x: whole(x) % 7 + whole(x) % -7,
    "remainders of tensors": lambda x: whole(x) % (whole(x.flip(3)) * 2 + 3),
    "remainders of a number": lambda x: 1000 % (whole(x) * 2 + 3),
    "remainders with the sign of what is divided": lambda x: torch.fmod(whole(x), 7) + torch.fmod(whole(x), -7),
    "a place from a quotient": lambda x: x.flatten(2).gather(2, x.flatten(2).argmax(2, keepdim=True) // 3 % 7),
    "real quotients": lambda x: (x // 1.5) + x % 1.5 + torch.div(x, -1.5, rounding_mode="trunc"),
    "sums of booleans": lambda x: (x > 0).sum(1) * 3 // 2,
    "a running count": lambda x: (x > 0).flatten(1).long().cumsum(1) * 3 % 1000,
    "a boolean mask": lambda x: attended(x, some_rows(x)),
    "an added mask": lambda x: attended(x, added(x)),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_results_are_of_the_kind_that_pytorch_gives_them(name: str, precision: str, tmp_path) -> None:
    module = Calls(CASES[name])
    build(captured(module, inputs={"image": IMAGES}), tmp_path, precision)
    got, expected = run(tmp_path, IMAGES[:1]), eager(module, IMAGES[:1])
    tolerance = 0 if np.all(expected == expected.round()) else {"fp32": 1e-6, "fp16": 2e-3}[precision]
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())
