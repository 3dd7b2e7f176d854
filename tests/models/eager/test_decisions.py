"""What is decided from floats can be put down, decided again, and turned where it is close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgevit.models.eager.margins import Margins
from edgevit.models.eager.scripts import Level, Record, Repeat, Turn

GRID = torch.randn(1, 2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def corners(x: Tensor) -> Tensor:
    """(4, 6) -> (1, 4, 3, 2), where in a grid; to the same values in every precision."""
    return x.reshape(1, 4, 3, 2)


def shuffled(x: Tensor) -> Tensor:
    return torch.tensor([0.3, 0.8, -0.9], dtype=x.dtype)


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "above": lambda x: x > 0.1,
    "at most the mean": lambda x: x <= x.mean(),
    "other than": lambda x: x != 0.2,
    "as a boolean": lambda x: x.bool(),
    "argmax": lambda x: x.argmax(1),
    "argmin, axis kept": lambda x: x.argmin(-1, keepdim=True),
    "argmax of all": lambda x: x.argmax(),
    "the best and its place": lambda x: x.max(1),
    "the k best": lambda x: x.topk(3, 1),
    "the k least": lambda x: x.topk(2, 1, largest=False),
    "an order": lambda x: x.argsort(0, descending=True),
    "the k-th": lambda x: x.kthvalue(2, 1),
    "the median": lambda x: x.median(1),
    "rounded": lambda x: (x * 3).round(),
    "rounded to a decimal": lambda x: x.round(decimals=1),
    "floor in place": lambda x: (x * 3).floor_(),
    "ceiling": lambda x: (x * 3).ceil(),
    "as an integer": lambda x: (x * 3).long(),
    "what a division leaves": lambda x: x % 0.3,
    "what is behind the point": lambda x: (x * 3).frac(),
    "a quotient": lambda x: torch.div(x, 0.3, rounding_mode="trunc"),
    "a floored quotient": lambda x: 1.0 // x,
    "sign": lambda x: x.sign(),
    "sign bit": lambda x: x.signbit(),
    "bucket": lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5, dtype=x.dtype)),
    "threshold": lambda x: F.threshold(x, 0.1, -3.0),
    "hard shrinkage": lambda x: F.hardshrink(x, 0.2),
    "a step": lambda x: torch.heaviside(x, x.new_tensor(0.5)),
    "another's sign": lambda x: torch.copysign(torch.ones_like(x), x),
    "the best so far": lambda x: x.cummax(1),
    "the least so far": lambda x: x.cummin(0),
    "the best of windows": lambda x: F.max_pool2d(x[None, None], (2, 3), (1, 2), 1, return_indices=True),
    "the best of spread windows": lambda x: F.max_pool2d(
        x[None], 2, 2, dilation=(1, 2), ceil_mode=True, return_indices=True
    ),
    "the best of volumes": lambda x: F.max_pool3d(x.reshape(1, 2, 3, 4), 2, 1, return_indices=True),
    "the best of parts": lambda x: F.adaptive_max_pool2d(x[None], (3, 4), return_indices=True),
    "the nearest of a grid": lambda x: F.grid_sample(GRID.to(x.dtype), corners(x), "nearest", align_corners=False),
    "the nearest of a mirrored grid": lambda x: F.grid_sample(
        GRID.to(x.dtype), corners(x), "nearest", "reflection", align_corners=True
    ),
    "the nearest of a bordered grid": lambda x: F.grid_sample(
        GRID.to(x.dtype), corners(x), "nearest", "border", align_corners=False
    ),
    "bins": lambda x: x.histc(5, -1, 1),
    "bins between its ends": lambda x: x.histc(4),
    "where it is none": lambda x: F.relu(x - 0.3).nonzero(),
    "how many are none": lambda x: F.relu(x - 0.3).count_nonzero(1),
    "bucket of sorted": lambda x: torch.searchsorted(shuffled(x), x, sorter=torch.tensor([2, 0, 1])),
}


def values(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def scripted(decide: Callable[[Tensor], Any], source: Tensor, script: Any) -> list[Tensor]:
    with Margins(script) as margins:
        margins.begin([source])
        return values(decide(source))


@pytest.fixture
def source() -> Tensor:
    return torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_another_precision_decides_as_was_put_down_and_says_how_far_it_was_off(kind: str, source: Tensor) -> None:
    record = Record()
    exact = scripted(KINDS[kind], source, record)
    off = torch.randn(source.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
    repeat = Repeat(record)
    again = scripted(KINDS[kind], (source + off).float(), repeat)
    assert not repeat.lost
    for got, want in zip(again, exact, strict=True):
        # a rest moves with its source by as much as that; a whole number does not
        assert torch.equal(got, want.to(got.dtype)) or (got - want).abs().max() < 0.1
    assert all(0 < level.moved < 10 for level in repeat.levels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_is_turned_where_it_is_close_and_nowhere_else(kind: str, source: Tensor) -> None:
    record = Record()
    exact = scripted(KINDS[kind], source, record)
    gaps = record.put[-1].gaps
    limit = float(gaps[gaps > 0].min()) * 1.001
    turns = [Turn([Level(limit / 4)] * len(record.put), bit=bit) for bit in (None, 0)]
    turned = [scripted(KINDS[kind], source, turn) for turn in turns]
    assert all(turn.close for turn in turns)
    if kind not in ("the best and its place", "the k-th", "the median"):  # values hardly move, and places do
        found = [[torch.equal(a, b) for a, b in zip(one, exact, strict=True)] for one in turned]
        assert not all(map(all, found))
    never = Turn([Level(float(gaps[gaps > 0].min()) / 8)] * len(record.put))
    assert all(torch.equal(a, b) for a, b in zip(scripted(KINDS[kind], source, never), exact, strict=True))


def test_close_decisions_are_turned_together_and_without_their_neighbours() -> None:
    source = torch.full((8,), 1e-9, dtype=torch.float64)
    patterns = [scripted(lambda x: x > 0, source, Turn([Level(1e-6)]))[0].tolist()]
    for bit in range(3):
        for others in (False, True):
            turn = Turn([Level(1e-6)], bit=bit, others=others)
            patterns.append(scripted(lambda x: x > 0, source, turn)[0].tolist())
    assert patterns[0] == [False] * 8
    apart = {(a, b) for one in patterns for a in range(8) for b in range(8) if not one[a] and one[b]}
    assert len(apart) == 8 * 7


def test_what_is_made_of_constants_is_not_decided() -> None:
    record = Record()
    scripted(lambda x: (torch.linspace(0, 1, 6) > 0.5) & (x > 0), torch.ones(6), record)
    assert [put.name for put in record.put] == ["aten.gt.Scalar"]
    assert float(record.put[0].gaps.min()) == 1.0


def test_what_is_nothing_in_every_precision_is_no_close_decision() -> None:
    source = torch.tensor([-1.0, 2.0, -3.0, 1e-9], dtype=torch.float64)
    record = Record()
    scripted(lambda x: F.relu(x) > 0, source, record)
    repeat = Repeat(record)
    scripted(lambda x: F.relu(x) > 0, source.float(), repeat)
    assert repeat.levels[0].exact
    turn = Turn(repeat.levels)
    assert scripted(lambda x: F.relu(x) > 0, source, turn)[0].tolist() == [False, True, False, False]
    assert turn.close == 1


def test_a_run_that_goes_another_way_decides_by_itself_and_nothing_is_clear_there() -> None:
    record = Record()
    scripted(lambda x: x > 0, torch.ones(3, dtype=torch.float64), record)
    repeat = Repeat(record)
    scripted(lambda x: x.argmax(), torch.ones(3), repeat)
    assert repeat.lost
    assert repeat.levels[0].limit == float("inf")


def test_a_place_that_nothing_comes_of_is_not_used() -> None:
    record = Record()
    scripted(lambda x: (x.max(1).values * 2, x.max(0).indices + 1), torch.rand(3, 4), record)
    assert record.used == {1}
