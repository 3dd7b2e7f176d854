"""Tensors of many axes become the same numbers in five axes at most, exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.export.legalise import calls_of
from edgevit.export.legalise.ranks import axes_of, within_ranks

MOST = 5


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.linear, self.norm = nn.Linear(4, 3), nn.LayerNorm((2, 4))
        self.register_buffer("table", torch.arange(32.0).reshape(1, 2, 2, 2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def six(x: Tensor) -> Tensor:
    """(B, 96) as (B, 2, 3, 2, 2, 4)."""
    return x.reshape(-1, 2, 3, 2, 2, 4)


CASES = {
    "a level of offsets selected": lambda m, x: six(x)[:, :, :, 1] / torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "a slice, scaled and summed": lambda m, x: (six(x)[:, :, 1:] * 2 + 1).sum(2),
    "sums of axes apart": lambda m, x: six(x).sum((1, 3, -1)),
    "means and largest": lambda m, x: (
        six(x).mean(-1) + six(x).amax(4, keepdim=True).expand(-1, -1, -1, -1, 2, 4)[..., 0]
    ),
    "softmax within": lambda m, x: six(x).softmax(2).flatten(1),
    "every axis somewhere else": lambda m, x: six(x).permute(0, 5, 3, 1, 4, 2).flatten(1)[:, :7],
    "seven axes": lambda m, x: x.reshape(-1, 2, 3, 2, 2, 2, 2).permute(0, 1, 3, 2, 4, 6, 5).flatten(1),
    "two axes exchanged": lambda m, x: six(x).transpose(1, -1).flatten(1),
    "broadcast between": lambda m, x: (six(x) * six(x)[:, :1, :, :1] + six(x)[:, :, :, :, :, :1]).flatten(1),
    "repeated": lambda m, x: six(x)[:, :, :1, :, :, :1].expand(-1, 2, 3, 2, 2, 4).flatten(1),
    "products of matrices": lambda m, x: (six(x) @ six(x).transpose(-1, -2)).flatten(1),
    "a linear layer": lambda m, x: m.linear(six(x)).flatten(1),
    "a normalisation of two axes": lambda m, x: m.norm(six(x)).flatten(1),
    "parts apart": lambda m, x: six(x).unbind(2)[1] - six(x).unbind(2)[2],
    "parts of seven": lambda m, x: x.reshape(-1, 2, 3, 2, 2, 2, 2).unbind(2)[1].exp().flatten(1),
    "joined and stacked": lambda m, x: torch.stack([torch.cat([six(x), six(x)[:, :1]], 1)] * 2, 3).flatten(1),
    "rows picked": lambda m, x: six(x)[:, :, torch.tensor([2, 0])].flatten(1),
    "masked": lambda m, x: torch.where(six(x) > 0, six(x), 0.0).flatten(1),
    "a constant": lambda m, x: (six(x)[:, :, :2, :, :, :2] * m.table.permute(0, 2, 1, 3, 5, 4)).flatten(1),
    "whole numbers": lambda m, x: (six(x) * 3).to(torch.int64).to(x.dtype).flatten(1),
}


def exported(function) -> tuple[nn.Module, torch.export.ExportedProgram]:
    torch.manual_seed(0)
    module = Calls(function).double().eval()
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    program = torch.export.export(module, (torch.zeros(2, 96).double(),), dynamic_shapes=(batch,), strict=False)
    return module, program.run_decompositions({})


@pytest.mark.parametrize("name", CASES)
def test_an_operator_on_many_axes_is_the_same_on_few(name) -> None:
    module, program = exported(CASES[name])
    assert max(axes_of(node) for node in calls_of(program)) > MOST
    within_ranks(program, MOST)
    assert max(axes_of(node) for node in calls_of(program)) <= MOST
    for rows in (1, 5):
        x = torch.randn(rows, 96, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), module(x), rtol=1e-14, atol=1e-14)


def test_what_has_no_way_is_left_as_it_was() -> None:
    module, program = exported(lambda m, x: six(x).flip(2).flatten(1))
    within_ranks(program, MOST)
    assert max(axes_of(node) for node in calls_of(program)) == 6
    x = torch.randn(3, 96, dtype=torch.float64)
    assert torch.equal(program.module()(x), module(x))
