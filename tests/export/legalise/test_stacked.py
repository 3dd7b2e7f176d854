"""Products with stacks of constant matrices, each matrix a weight of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.export.legalise import calls_of
from edgevit.export.legalise.stacked import MOST, unstacked

BATCH = ({0: torch.export.Dim("batch", min=1, max=8)},)


class Product(nn.Module):
    """``shape`` of the constant, and of a row of what it is multiplied with."""

    def __init__(self, shape: tuple[int, ...], row: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.row = row
        self.stack = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x.reshape(-1, *self.row) @ self.stack
        return found


def products_of(program: torch.export.ExportedProgram) -> int:
    return sum(node.target is torch.ops.aten.matmul.default for node in calls_of(program))


def exported(module: nn.Module, sides: int) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), (torch.randn(2, sides),), dynamic_shapes=BATCH)


@pytest.mark.parametrize(
    ("shape", "row", "products"),
    [
        ((3, 4, 5), (3, 2, 4), 3),
        ((3, 4, 5), (1, 2, 4), 3),
        ((1, 3, 4, 5), (3, 2, 4), 3),
        ((2, 1, 4, 5), (2, 3, 2, 4), 2),
        ((2, 1, 4, 5), (1, 3, 2, 4), 2),
        ((3, 4, 5), (2, 3, 2, 4), 3),
    ],
    ids=str,
)
def test_each_matrix_is_a_weight_and_nothing_is_rounded(
    shape: tuple[int, ...], row: tuple[int, ...], products: int
) -> None:
    sides = int(torch.Size(row).numel())
    program = exported(Product(shape, row), sides)
    split = unstacked(program)
    assert products_of(split) == products
    assert all(value.ndim == 2 for value in split.state_dict.values())
    for rows in (1, 5):
        x = torch.randn(rows, sides)
        assert torch.equal(split.module()(x), program.module()(x))
    assert list(program.state_dict) == ["stack"]


@pytest.mark.parametrize(
    ("shape", "row"),
    [((4, 5), (3, 4)), ((MOST + 1, 2, 3), (1, 1, 2)), ((2, 3, 4, 5), (2, 3, 1, 4)), ((1, 4, 5), (3, 4))],
    ids=str,
)
def test_other_products_stay_as_they_are(shape: tuple[int, ...], row: tuple[int, ...]) -> None:
    program = exported(Product(shape, row), int(torch.Size(row).numel()))
    assert unstacked(program) is program


class Shared(nn.Module):
    """One stack in two products, one of them a bmm; weights that are called as the matrices would be."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 4, 4))
        self.w_0 = nn.Parameter(torch.randn(4))
        self.register_buffer("still", torch.randn(2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = x.reshape(-1, 2, 1, 4) @ self.w
        z = torch.bmm(y.sum(0), self.w) + self.w_0
        return (y + z) @ self.get_buffer("still") + self.w.sum()


def test_a_shared_stack_is_split_once_and_stays_for_those_that_read_it_whole() -> None:
    program = torch.export.export(Shared().eval(), (torch.randn(2, 8),))
    split = unstacked(program)
    assert products_of(split) == 6
    assert sorted(split.state_dict) == ["still_0", "still_1", "w", "w_0", "w_0_", "w_1"]
    x = torch.randn(2, 8)
    torch.testing.assert_close(split.module()(x), program.module()(x), rtol=1e-6, atol=1e-6)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x @ self.stack
        return found


def test_products_are_still_of_the_module_that_multiplied() -> None:
    from edgevit.export.precision import module_path

    module = nn.Sequential(nn.Unflatten(1, (2, 1, 4)), Block())
    split = unstacked(exported(module, 8))
    paths = [module_path(node) for node in calls_of(split) if node.target is torch.ops.aten.matmul.default]
    assert paths == ["1", "1"]
