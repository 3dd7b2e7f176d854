"""Deformable convolution is a sampled map and a product of matrices."""

from __future__ import annotations

import pytest
import torch
from deforming import registered
from rule_oracle import Calls, assert_written_out
from torch import Tensor

from edgevit.export.legalise.deformable import DEFORMABLE_RULES

CASES = {  # channels, kernel, offset groups; stride, padding, dilation, groups
    "3 x 3": (4, (3, 3), 1, (1, 1, 1, 1, 1, 1, 1)),
    "one pixel": (2, (1, 1), 1, (1, 1, 0, 0, 1, 1, 1)),
    "strided and dilated": (2, (2, 3), 1, (2, 1, 1, 2, 2, 1, 1)),
    "groups of weights": (4, (3, 2), 1, (1, 2, 1, 0, 1, 1, 2)),
    "groups of offsets": (4, (2, 2), 2, (1, 1, 0, 1, 1, 2, 1)),
    "both": (4, (2, 1), 4, (1, 1, 1, 1, 1, 1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("name", CASES)
def test_every_tap_sees_what_lies_where_it_looks(name: str, masked: bool) -> None:
    channels, kernel, parts, how = CASES[name]
    torch.manual_seed(1)
    weight = torch.randn(4, channels // how[-1], *kernel, dtype=torch.float64)
    bias, taps = torch.randn(4, dtype=torch.float64), parts * kernel[0] * kernel[1]
    rows, columns = (
        (side + 2 * how[2 + axis] - how[4 + axis] * (kernel[axis] - 1) - 1) // how[axis] + 1
        for axis, side in enumerate((3, 4))
    )
    offsets, masks = torch.randn(2 * taps, rows, columns).double() * 2, torch.rand(taps, rows, columns).double()
    with registered() as operator:

        def function(x: Tensor) -> Tensor:
            moved = offsets + x.mean((1, 2, 3)).reshape(-1, 1, 1, 1)  # far outside too
            mask = masks * x[:, :1, :1, :1] if masked else torch.zeros(x.shape[0], 1, dtype=x.dtype)
            return operator(x, weight, moved, mask, bias, *how, parts, masked)

        assert_written_out(Calls(function), DEFORMABLE_RULES, channels, 3, 4, tolerance=1e-12)
