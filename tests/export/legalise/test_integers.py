"""Quotients and remainders of integers of both signs are exact, and integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_oracle import Calls, assert_written_out
from torch import Tensor

from edgevit.export.legalise import rewritten
from edgevit.export.legalise.integers import DIVISION_RULES, REMAINDER_RULES


def whole(x: Tensor) -> Tensor:
    return (x * 1e6).to(torch.int64)


@pytest.mark.parametrize("mode", ["floor", "trunc"])
@pytest.mark.parametrize("other", [3, -7, torch.tensor(-2), "tensor"], ids=str)
def test_a_quotient_of_integers_is_an_integer(other: object, mode: str) -> None:
    def function(x: Tensor) -> Tensor:
        return torch.div(whole(x), whole(x.flip(2)) * 2 + 1 if other == "tensor" else other, rounding_mode=mode)

    assert_written_out(Calls(function), DIVISION_RULES, 3, 40, tolerance=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.fmod(whole(x), 7),
        lambda x: torch.fmod(whole(x), -7),
        lambda x: torch.fmod(whole(x), whole(x.flip(2)) * 2 + 1),
        lambda x: 12_345 % (whole(x) * 2 + 1),
        lambda x: torch.fmod(x * 9, -1.25),
        lambda x: torch.fmod(x * 9, x.flip(2)),
        lambda x: 12.5 % x,
    ],
    ids=["fmod", "fmod-negative", "fmod-tensor", "of-a-number", "real", "real-tensor", "of-a-real-number"],
)
def test_a_remainder_has_the_sign_of_its_operator(function: Callable[[Tensor], Tensor]) -> None:
    assert_written_out(Calls(function), REMAINDER_RULES, 3, 40, tolerance=1e-12)


@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_a_quotient_of_real_numbers_is_left_as_it_is(mode: str) -> None:
    module, x = Calls(lambda x: torch.div(x, 0.3, rounding_mode=mode)), torch.randn(2, 5, dtype=torch.float64)
    program = torch.export.export(module, (x,), strict=False).run_decompositions({})
    assert torch.equal(rewritten(program, DIVISION_RULES).module()(x), module(x))
