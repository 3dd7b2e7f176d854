"""Every rule writes the function of its operator, in float64, and only where one of its calls needs it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from edgevit.export.legalise import rewritten
from edgevit.export.legalise.scatter import SCATTER_REDUCE, SCATTER_RULE

RULES = {SCATTER_REDUCE: SCATTER_RULE}


class Scatters(nn.Module):
    def __init__(self, reduce: str, include_self: bool) -> None:
        super().__init__()
        self.reduce, self.include_self = reduce, include_self

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(12).remainder(5)[None].expand(len(x), 12)  # nothing goes to three of eight places
        start = torch.ones_like(x[:, :8]) * 3
        return start.scatter_reduce(1, index, x, reduce=self.reduce, include_self=self.include_self)


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize(
    ("reduce", "include_self"), list(itertools.product(("sum", "prod", "mean", "amax", "amin"), (True, False)))
)
def test_a_scattered_mean_is_a_sum_over_a_count_and_nothing_else_is_touched(reduce: str, include_self: bool) -> None:
    module, x = Scatters(reduce, include_self), torch.randn(3, 12, dtype=torch.float64)
    program = torch.export.export(module, (x,), strict=False)
    found = rewritten(program, RULES)
    torch.testing.assert_close(found.module()(x), module(x), rtol=1e-12, atol=1e-12)
    assert (found is program) is (reduce != "mean")
    assert ("aten.scatter_reduce.two" in operators(found)) is (reduce != "mean")


def test_the_mean_is_written_out_beside_another_reduction() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Scatters("mean", False)(x) + Scatters("amax", True)(x)

    x = torch.randn(3, 12, dtype=torch.float64)
    found = rewritten(torch.export.export(Both(), (x,), strict=False), RULES)
    torch.testing.assert_close(found.module()(x), Both()(x), rtol=1e-12, atol=1e-12)
