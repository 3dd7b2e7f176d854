"""Einstein's sums of two tensors are one product of matrices, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.export.legalise import calls_of, rewritten
from edgevit.export.legalise.einsum import EINSUM_RULES


class Sums(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum(self.equation, x, y)


def kept(equation: str, *shapes: tuple[int, ...]) -> bool:
    """Whether the sum is still in the program; its values are those of PyTorch in either case."""
    torch.manual_seed(0)
    module, given = Sums(equation), tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)
    axes = ({0: torch.export.Dim("batch", max=8)},) * 2 if shapes[0][0] == 2 else None
    program = rewritten(
        torch.export.export(module, given, dynamic_shapes=axes, strict=False).run_decompositions({}), EINSUM_RULES
    )
    torch.testing.assert_close(program.module()(*given), module(*given), rtol=1e-13, atol=1e-13)
    return any(node.target is torch.ops.aten.einsum.default for node in calls_of(program))


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("btij,bntpj->bntpi", (2, 3, 4, 5), (2, 6, 3, 7, 5)),
        ("...ij,...j->...i", (2, 3, 4, 5), (2, 3, 5)),
        ("bchw,bqc->bqhw", (2, 3, 4, 5), (2, 6, 3)),
        ("b i d , b j d -> b i j", (2, 3, 4), (2, 5, 4)),
        ("bijk,bkl->bl", (2, 3, 4, 5), (2, 5, 6)),
        ("bi,bj", (2, 3), (2, 4)),
        ("bhwc,hkc->bhwk", (3, 4, 5, 6), (4, 7, 6)),
        ("i,i->", (3,), (3,)),
        ("bi,bi->bi", (3, 4), (3, 1)),
    ],
)
def test_a_sum_of_two_is_a_product_of_matrices(equation, left, right) -> None:
    assert not kept(equation, left, right)


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("nchw,nwhu->nchu", (3, 3, 4, 5), (3, 5, 4, 6)),
        ("bdhk,bkhq->bdhq", (3, 3, 4, 5), (3, 5, 4, 6)),
        ("bii,bi->b", (3, 4, 4), (3, 4)),
    ],
)
def test_core_ml_s_own_sums_and_diagonals_are_left(equation, left, right) -> None:
    assert kept(equation, left, right)
