"""What a converter takes in its plainest form only, brought to that form: the same values in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rule_oracle import Calls, assert_mended
from torch import Tensor, nn

from edgevit.export.legalise import Rules, calls_of
from edgevit.export.legalise.attention import ATTENTION_RULES
from edgevit.export.legalise.borders import BORDER_RULES, TRANSPOSED_RULES
from edgevit.export.legalise.branches import without_branches
from edgevit.export.legalise.einsum import EINSUM_RULES
from edgevit.export.legalise.functions import BIT_RULES, CHOICE_RULES, FUNCTION_RULES
from edgevit.export.legalise.moves import MOVE_RULES
from edgevit.export.legalise.overhang import OVERHANG_RULES
from edgevit.export.legalise.products import SUM_RULES
from edgevit.export.legalise.puts import PUT_RULES, SEARCH_RULES
from edgevit.export.legalise.scales import SCALE_RULES
from edgevit.export.legalise.singles import SINGLE_RULES
from edgevit.export.legalise.statistics import LEARNED_RULES, RMS_RULES

Function = Callable[[Tensor], Any]
BELOW = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
EQUAL = torch.tensor([0, 0, 3])
PUT = torch.ops.aten.index_put.default


def whole(x: Tensor) -> Tensor:
    return (x * 10).to(torch.int64)


def places(x: Tensor, count: int) -> Tensor:
    return whole(x) % count


def one(x: Tensor) -> Tensor:
    return torch.ones((), dtype=x.dtype)


FUNCTIONS: dict[str, Function] = {
    "cut towards zero": lambda x: (x * 3).trunc(),
    "rounded to decimals": lambda x: torch.round(x, decimals=1) + torch.round(x * 90, decimals=-1),
    "erfc": lambda x: x.erfc(),
    "hypot": lambda x: torch.hypot(x, x.flip(1)) + torch.hypot(x * 0, x * 0),
    "asinh, of small ones too": lambda x: x.asinh() + (x * 1e-9).asinh() * 1e9,
    "acosh": lambda x: (x.abs() + 1).acosh(),
    "log sigmoid": lambda x: F.logsigmoid(x * 3),
    "softplus beyond its threshold": lambda x: F.softplus(x * 4, 2, 3),
    "log softmax of far apart ones": lambda x: F.log_softmax(x * 500, 1),
    "lerp by a number": lambda x: torch.lerp(x, x.flip(1), 0.3) + torch.lerp(x, x.flip(1), 0.8),
    "lerp by a tensor": lambda x: torch.lerp(x, x.flip(1), x.sigmoid()),
    "x log y": lambda x: torch.xlogy(x.relu(), x.relu()),
}
CHOICES: dict[str, Function] = {
    "whole numbers": lambda x: torch.where(x > 0, 1, -2),
    "a whole and a real number": lambda x: torch.where(x > 0, 1, 2.5),
    "a number or a tensor": lambda x: torch.where(x > 0, 1, x) + torch.where(x > 1, x, -1),
    "an integer tensor or a real number": lambda x: torch.where(x > 0, whole(x), 0.5),
    "booleans": lambda x: torch.where(x > 0, True, False),
}
BITS: dict[str, Function] = {
    "low bits, of negative ones too": lambda x: (whole(x) & 7) + (whole(x) & 0),
    "shifts": lambda x: (whole(x) << 3) + (whole(x) >> 2),
}
BORDERS: dict[str, Function] = {
    "in a circle": lambda x: F.pad(x, (3, 1, 0, 4), mode="circular"),
    "less": lambda x: F.pad(x, (-1, 2, -3, 0), value=0.5),
    "less in a circle": lambda x: F.pad(x, (2, -1, 1, 1), mode="circular"),
    "less at one end, mirrored at the other": lambda x: F.pad(x, (-1, 2, 1, -2), mode="reflect"),
    "less at one end, repeated at the other": lambda x: F.pad(x, (-1, 2, 1, -2), mode="replicate"),
}
OVERHANG: dict[str, Function] = {
    "means of windows that would begin behind the end": lambda x: F.avg_pool2d(x, (3, 2), (2, 4), (1, 0), True),
    "the largest of them": lambda x: F.max_pool2d(x, (2, 3), (5, 5), ceil_mode=True),
    "in one axis": lambda x: F.max_pool1d(x.flatten(2), 2, 69, ceil_mode=True),
    "taps apart": lambda x: F.max_pool2d(x, 3, 1, dilation=2),
    "without a step": lambda x: torch.ops.aten.max_pool2d.default(x, [2, 2]),
    "with their places": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "over a divisor": lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
}
MOVES: dict[str, Function] = {
    "diagonals": lambda x: x.diagonal(0, 2, 3).sum(-1) + x.diagonal(-2, 3, 2).sum(-1) + x.diagonal(4, 2, 3).sum(-1),
    "as one line": lambda x: x.roll(5),
    "windows folded back": lambda x: F.fold(F.unfold(x, 3, 2, 1, 2), x.shape[2:], 3, 2, 1, 2),
    "uneven means in three axes": lambda x: F.adaptive_avg_pool3d(x, (3, 4, 5)),
}
PUTS: dict[str, Function] = {
    "in another axis than the first": lambda x: PUT(x, [None, None, torch.tensor([5, 0])], x[:, :, :2]),
    "one number": lambda x: PUT(x, [None, None, None, torch.tensor([5, 0])], 3 * one(x)),
    "added": lambda x: PUT(x, [None, EQUAL], 2 * x[:, :3], True),
    "axes apart": lambda x: PUT(x, [None, EQUAL, None, EQUAL], one(x), True),
    "from a corner": lambda x: x.gather(-1, places(x, 8)[:, :3, :4, :5]),
    **{
        f"{reduce} of what is written alone": (
            lambda x, reduce=reduce: x.scatter_reduce(1, places(x, 6), x, reduce, include_self=False)
        )
        for reduce in ("sum", "prod", "amax", "amin", "mean")
    },
    "means with what was there": lambda x: x.scatter_reduce(1, places(x, 6), x, "mean"),
}
SEARCHES: dict[str, Function] = {
    "buckets": lambda x: torch.bucketize(x.round(), BELOW) - torch.bucketize(x.round(), BELOW, right=True),
    "in a sequence": lambda x: torch.searchsorted(BELOW, x.round(), side="right"),
    "a stable order": lambda x: torch.sort(x, dim=1, stable=True),
}
SCALES: dict[str, Function] = {
    "of two axes": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6), mode="bilinear"),
    "of one": lambda x: F.interpolate(x.flatten(2), scale_factor=1.13, mode="linear"),
    "of three": lambda x: F.interpolate(x[:, None], scale_factor=1.3, mode="trilinear", align_corners=True),
}
SUMS: dict[str, Function] = {
    "of a product": lambda x: torch.addmm(x[0, 0], x[0, 1], x[0, 2, :, :8].mT @ x[0, 3], beta=0.5, alpha=2),
    "of products": lambda x: torch.baddbmm(x[0] / 0, x[0], x[1].mT @ x[1], beta=0),
    "of all products": lambda x: torch.addbmm(x[0, 0], x[0], x[1].mT @ x[1]),
    "of a product with a vector": lambda x: torch.addmv(x[0, 0, :, 0], x[0, 0], x[0, 1, 0], beta=2, alpha=0.5),
}


def forms(**tables: tuple[dict[str, Function], Rules]) -> list[Any]:
    return [
        pytest.param(function, rules, id=f"{table}: {name}")
        for table, (functions, rules) in tables.items()
        for name, function in functions.items()
    ]


@pytest.mark.parametrize(
    ("function", "rules"),
    forms(
        function=(FUNCTIONS, FUNCTION_RULES), choice=(CHOICES, CHOICE_RULES), bits=(BITS, BIT_RULES),
        border=(BORDERS, BORDER_RULES), overhang=(OVERHANG, OVERHANG_RULES), move=(MOVES, MOVE_RULES),
        put=(PUTS, PUT_RULES), search=(SEARCHES, SEARCH_RULES), scale=(SCALES, SCALE_RULES), sum=(SUMS, SUM_RULES),
    ),
)  # fmt: skip
def test_what_is_mended_computes_the_same(function: Function, rules: Rules) -> None:
    assert_mended(Calls(function), rules, 6, 10, 8, tolerance=1e-11)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.ConvTranspose1d(6, 4, 5, 3, 1, 2), (6, 9)),
        (nn.ConvTranspose2d(6, 9, 3, (3, 2), (2, 1), (2, 1), 3, dilation=(1, 2)), (6, 5, 4)),
        (nn.ConvTranspose2d(6, 5, 4, 4, 0, 3, bias=False), (6, 5, 4)),
        (nn.ConvTranspose3d(2, 3, 2, 2, 1, 1), (2, 4, 5, 6)),
    ],
    ids=["1-d", "in groups, dilated", "more than is cut", "3-d"],
)
def test_what_a_deconvolution_adds_at_its_end_is_cut_from_the_whole(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert_mended(module, TRANSPOSED_RULES, *shape)


@pytest.mark.parametrize("shape", [(12,), (10, 12)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_a_root_mean_square_norm_is_a_layer_norm_of_values_and_their_negatives(shape, affine) -> None:
    assert_mended(nn.RMSNorm(shape, eps=0.1, elementwise_affine=affine), RMS_RULES, 3, 10, 12)


def test_an_instance_norm_that_learned_its_statistics_uses_them() -> None:
    module = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    nn.init.uniform_(module.running_mean), nn.init.uniform_(module.running_var)
    assert_mended(module, LEARNED_RULES, 3, 5, 6)


@pytest.mark.parametrize("causal", [True, False])
def test_keys_that_heads_share_are_repeated(causal: bool) -> None:
    def shared(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:4], is_causal=causal, enable_gqa=True)

    assert_mended(Calls(shared), ATTENTION_RULES, 6, 5, 8)


def test_an_axis_of_one_is_repeated_in_a_sum_of_products() -> None:
    assert_mended(Calls(lambda x: torch.einsum("bchw,bkhw->bckh", x[:, :, :1], x)), EINSUM_RULES, 3, 5, 8)


def test_numbers_made_in_a_program_are_numbers() -> None:
    def made(x: Tensor) -> Tensor:
        named = {"dtype": x.dtype}
        new = x.new_zeros(()) + x.new_ones(()) + x.new_full((), 4)
        return x + torch.ones((), **named) + torch.zeros((), **named) + torch.full((), 3, **named) + new

    assert_mended(Calls(made), SINGLE_RULES, 3)


class Halves(nn.Module):
    """One of three layers, by what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        def inner(x: Tensor) -> Tensor:
            return torch.cond(x.amax() > 1, self.layers[0], self.layers[1], (x,))

        return torch.cond(x.sum() > 0, inner, self.layers[2], (x,))


def test_both_branches_are_computed_and_one_is_chosen() -> None:
    torch.manual_seed(0)
    module, x = Halves().eval(), torch.randn(2, 4)
    program = without_branches(torch.export.export(module, (x,)).run_decompositions({}))
    assert torch.ops.higher_order.cond not in {node.target for node in calls_of(program)}
    for rows in (x.abs() * 9, x.abs() * 0.01, -x.abs()):
        torch.testing.assert_close(program.module()(rows), module(rows))
