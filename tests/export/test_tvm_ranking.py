"""What is ranked comes out in PyTorch's order, and equal values in that of their places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tvm")
import tvm
from tvm import relax

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import Unsupported
from edgevit.export.capture import capture
from edgevit.export.tvm import compile as compiling
from edgevit.export.tvm import schedules, targets


class Ranked(nn.Module):
    """Several rankings of one (B, 3, 21, 5) input, compiled as one program."""

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        rough = (rows * 2).round()  # full of equal values
        whole = rough.to(torch.int64)
        return {
            "top": torch.topk(rows, 4, dim=2).values,
            "low": torch.topk(rows, 3, dim=1, largest=False).values,
            "whole line": torch.topk(rows.flatten(1), 315).values,
            "places": torch.topk(rows, 4, dim=2).indices,
            "up": torch.sort(rough.flatten(1), dim=1, stable=True).values,
            "up from": torch.sort(rough.flatten(1), dim=1, stable=True).indices,
            "down from": torch.sort(rough.flatten(1), descending=True, dim=1, stable=True).indices,
            "one": torch.argsort(rough[:, :1, 0, 0], dim=1, stable=True),
            "ranks": torch.argsort(torch.argsort(rows, dim=-1), dim=-1, descending=True),
            "integers": torch.sort(whole, dim=-2).values,
            "booleans": torch.sort(whole > 0, dim=2).values,
        }


def compiled(module: nn.Module, rows: np.ndarray) -> list[np.ndarray]:
    captured = capture(module.eval(), {"rows": rows}, BatchRange(min=1, max=4))
    target = targets.host(1)
    made = compiling.build(schedules.apply(compiling.lower(captured.program), target, {}), target)
    return [each.numpy() for each in relax.VirtualMachine(made, tvm.cpu())["main"](tvm.runtime.tensor(rows))]


def test_every_ranking_is_pytorchs_with_ties_by_place_and_nan_as_the_largest() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 3, 21, 5)).astype(np.float32)
    rows[1, 2, 7, 3] = rows[2, 0, 0, 0] = np.nan
    rows[0, 1, 2, 3] = np.inf
    wanted = Ranked()(torch.from_numpy(rows))
    found = compiled(Ranked(), rows)
    for (name, value), got in zip(wanted.items(), found, strict=True):
        np.testing.assert_array_equal(got, value.numpy(), err_msg=name)


def test_a_line_that_grows_with_the_batch_is_not_ranked() -> None:
    class Across(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows.argsort(0)

    with pytest.raises(Unsupported, match="number of values that are sorted to be fixed"):
        compiled(Across(), np.zeros((3, 4), np.float32))
