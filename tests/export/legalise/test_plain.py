"""What importers lack or misread, in operators that all of them have: the same values in float64, with any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rule_oracle import Calls
from torch import Tensor

from edgevit.export.legalise import Rules, calls_of, in_known_operators
from edgevit.export.legalise.limits import LIMIT_RULES
from edgevit.export.legalise.places import PLACE_RULES
from edgevit.export.legalise.pooling import POOLING_RULES
from edgevit.export.legalise.products import PRODUCT_RULES
from edgevit.export.legalise.resizing import RESIZING_RULES
from edgevit.export.legalise.statistics import STATISTICS_RULES
from edgevit.export.legalise.types import TYPE_RULES

aten = torch.ops.aten
FIRST, SECOND = torch.tensor([2, 0, -1]), torch.tensor([0, 3, -2])
EQUAL = torch.tensor([0, 0, 3])
GRID = torch.tensor([[0, -1], [2, 3]])


def whole(x: Tensor) -> Tensor:
    return (x * 10).to(torch.int64)


def written(x: Tensor, places: Any, value: Any) -> Tensor:
    found = x.clone()
    found[places] = value
    return found


PLACES: dict[str, Callable[[Tensor], Any]] = {
    "from the end": lambda x: x[:, -1] + x[:, [-2, 0]].sum(1),
    "two lists beside": lambda x: x[:, FIRST, SECOND],
    "two lists apart": lambda x: x[:, FIRST, :, SECOND],
    "two lists last": lambda x: x[..., FIRST, SECOND],
    "a grid": lambda x: x[:, GRID, SECOND[:2]],
    "computed, from the end": lambda x: x[:, whole(x)[0, :, 0, 0] % 5 - 5],
    "a mask": lambda x: written(x, x > 0.5, 0.0),
    "a mask of rows": lambda x: written(x, (x > -1).all(-1), torch.arange(4.0, dtype=x.dtype)),
    "where a mask is": lambda x: written(x, torch.where((x > 0).all(-1)), -1.0),
    "added by a mask": lambda x: x.index_put((x > 0,), torch.tensor(2.0, dtype=x.dtype), accumulate=True),
    "a list is set": lambda x: written(x, (slice(None), FIRST), 5.0),
    "two lists apart are set": lambda x: written(
        x, (slice(None), FIRST, slice(None), SECOND), x[:, 0, :, 0].repeat(3, 1)[:3].reshape(3, 1, -1)
    ),
    "added at equal places": lambda x: x.transpose(0, 1).index_put(
        (EQUAL,), torch.ones(1, dtype=x.dtype), accumulate=True
    ),
    "take": lambda x: x.take(GRID),
    "sliding": lambda x: x.unfold(2, 3, 2),
    "scatter from a corner": lambda x: x.scatter(1, x.argmax(1, keepdim=True)[..., :3, :2], x.abs()),
    "scatter_add into a corner": lambda x: x.scatter_add(2, (whole(x).abs() % 5)[:, :3, :, :2], x),
}
POOLING: dict[str, Callable[[Tensor], Any]] = {
    "adaptive": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "adaptive, larger": lambda x: F.adaptive_max_pool2d(x, (8, 5)),
    "adaptive, of one map": lambda x: F.adaptive_max_pool2d(x.mean(0), (4, 3)),
    "adaptive, of three": lambda x: F.adaptive_max_pool3d(x[:, None], (2, 4, 3)),
    "adaptive places": lambda x: F.adaptive_max_pool2d(x, (4, 3), return_indices=True)[1],
    "adaptive places of equal windows": lambda x: F.adaptive_max_pool2d(x, (3, 2), return_indices=True)[1],
    "places": lambda x: F.max_pool2d(x.round(), 3, 2, 1, return_indices=True)[1],
    "places far apart": lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 1), (2, 1), return_indices=True)[1],
    "a divisor": lambda x: F.avg_pool2d(x, (2, 3), 2, 1, divisor_override=5),
    "a divisor of three axes": lambda x: F.avg_pool3d(x[:, None], 2, divisor_override=5),
}
RESIZING: dict[str, Callable[[Tensor], Any]] = {
    f"{mode} {name}": lambda x, mode=mode, how=how: F.interpolate(x, mode=mode, antialias=True, **how)
    for mode in ("bilinear", "bicubic")
    for name, how in {
        "down": {"size": (4, 3)},
        "up": {"size": (9, 11)},
        "by a scale": {"scale_factor": (0.7, 1.3)},
        "corners": {"size": (4, 7), "align_corners": True},
        "to one": {"size": (1, 1), "align_corners": True},
    }.items()
}
TYPES: dict[str, Callable[[Tensor], Any]] = {
    "a number added": lambda x: whole(x) + 0.5,
    "more than once": lambda x: torch.add(x, x.abs(), alpha=3) + torch.sub(x, 2, alpha=3),
    "integers divided": lambda x: whole(x) / 4 + whole(x) / (whole(x).abs() + 1),
    "compared": lambda x: torch.stack([whole(x) > 0.5, whole(x) == 0.5, whole(x) <= x]),
    "booleans": lambda x: torch.stack([(x > 0) + (x > 1), (x > 0) * (x > -1), torch.maximum(x > 0, x > 1)]),
    "booleans times a number": lambda x: (x > 0) * 0.3,
    "powers of integers": lambda x: torch.stack([2 ** whole(x).abs(), whole(x) ** (whole(x).abs() % 4)]),
    "roots of integers": lambda x: whole(x).abs() ** 0.5 + whole(x).abs() ** x,
    "rests": lambda x: torch.remainder(7, whole(x).abs() + 1) + torch.fmod(whole(x), 2.5),
    "towards zero": lambda x: torch.stack([torch.div(whole(x), each, rounding_mode="trunc") for each in (3, -3)]),
    "by a number": lambda x: torch.div(x, 0.3, rounding_mode="trunc") + torch.div(x, 0.3, rounding_mode="floor"),
    "chosen": lambda x: torch.where(x > 0, whole(x), x),
    "joined": lambda x: torch.cat([x, whole(x), x > 0], 1),
    "functions": lambda x: torch.stack(
        [whole(x).exp(), whole(x).sigmoid(), (x > 0).tanh(), (whole(x).abs() + 1).rsqrt()]
    ),
}
LIMITS: dict[str, Callable[[Tensor], Any]] = {
    "clamp_max": lambda x: x.clamp_max(0.2) + x.clamp_min(-0.2),
    "of integers": lambda x: whole(x).clamp_max(2) + whole(x).clamp_min(-2),
    "of integers by numbers": lambda x: whole(x).clamp(-3.5, 5.5) + whole(x).clamp(max=2.5),
    "crossed": lambda x: x.clamp(0.3, -0.2),
    "of integers crossed": lambda x: whole(x).clamp(3, -2),
}
STATISTICS: dict[str, Callable[[Tensor], Any]] = {
    "std": lambda x: x.std(1) + x.std(-1, correction=0).mean(),
    "std of all": lambda x: x.std((1, 2, 3), correction=2, keepdim=True),
    "var_mean": lambda x: torch.cat(torch.var_mean(x, 1, correction=0)),
    "group_norm": lambda x: F.group_norm(x, 2, eps=0.2) + F.group_norm(x, 1, weight=torch.arange(6.0, dtype=x.dtype)),
    "instance_norm": lambda x: F.instance_norm(x, None, None, torch.arange(6.0).double(), None, True, 0.2, 0.3),
    "instance_norm of statistics": lambda x: F.instance_norm(
        x, torch.arange(6.0).double(), torch.arange(1, 7.0).double(), None, None, False, 0.2, 0.3
    ),
    "how many": lambda x: torch.linalg.vector_norm(x.round(), 0, (1, -1), True),
    "cdist": lambda x: aten._cdist_forward(x, x.flip(2), 2.0, None) + aten._cdist_forward(x, x.flip(2), 1.0, None),
    "small": lambda x: torch.stack([(x * 1e-9).log1p() * 1e9, (x * 1e-9).expm1() * 1e9, x.abs().log1p(), x.expm1()]),
    "logaddexp": lambda x: torch.logaddexp(x * 1e3, x.flip(1) * 1e3),
    "median": lambda x: (
        x.median(1, keepdim=True).values + x.masked_fill(x > 1, torch.nan).median(-1, keepdim=True).indices + x.median()
    ),
    "kthvalue": lambda x: x.kthvalue(2, 1, keepdim=True).values + x.kthvalue(3, -1, keepdim=True).values,
}
PRODUCTS: dict[str, Callable[[Tensor], Any]] = {
    "a column": lambda x: x @ torch.arange(4.0, dtype=x.dtype),
    "a row": lambda x: torch.arange(5.0, dtype=x.dtype) @ x,
    "a number": lambda x: torch.arange(4.0, dtype=x.dtype) @ x.mean((0, 1, 2)),
    "one map": lambda x: F.conv2d(x.mean(0), torch.ones(2, 6, 3, 3, dtype=x.dtype), padding=1),
    "one line": lambda x: F.conv_transpose1d(x.mean((0, 2)), torch.ones(6, 1, 3, dtype=x.dtype), stride=2),
}
TABLES: tuple[tuple[Rules, dict[str, Callable[[Tensor], Any]]], ...] = (
    (PLACE_RULES, PLACES),
    (POOLING_RULES, POOLING),
    (RESIZING_RULES, RESIZING),
    (TYPE_RULES, TYPES),
    (LIMIT_RULES, LIMITS),
    (STATISTICS_RULES, STATISTICS),
    (PRODUCT_RULES, PRODUCTS),
)
ROWS = [pytest.param(rules, function, id=name) for rules, table in TABLES for name, function in table.items()]


@pytest.mark.parametrize(("rules", "function"), ROWS)
def test_a_rule_computes_what_its_operator_does(rules: Rules, function: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    program = torch.export.export(Calls(function), (x,), dynamic_shapes=(batch,), strict=False)
    found = in_known_operators(program, rules, lambda _: True)
    assert any(
        node.target in rules and rules[node.target].needed(node) for node in calls_of(program.run_decompositions({}))
    )
    assert not any(node.target in rules and rules[node.target].needed(node) for node in calls_of(found))
    for rows in (x, torch.randn(5, 6, 5, 4, dtype=torch.float64)):
        got, wanted = found.module()(rows), function(rows)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_values_that_are_counted_off_for_a_mask_are_left() -> None:
    x = torch.randn(3, 4)
    program = torch.export.export(
        Calls(lambda x: x.index_put((x > 0,), torch.arange(6.0)[: int(1e9)])), (x,), strict=False
    )
    found = in_known_operators(program, PLACE_RULES, lambda _: True)
    assert torch.ops.aten.index_put.default in {node.target for node in calls_of(found)}
