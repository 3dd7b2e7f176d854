"""Attention under decided masks is what PyTorch computes, rows that forbid every key included."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from rule_oracle import Calls, assert_written_out
from torch import Tensor

from edgevit.export.legalise import calls_of, rewritten
from edgevit.export.legalise.attention import ATTENTION_RULES


def allowed(x: Tensor) -> Tensor:
    """(B, 1, 5, 5): no key for the last query."""
    mask = (x[:, 0, :, :5] > -0.5) & (torch.arange(5) < 4)[:, None]
    return mask.unsqueeze(1)


def as_numbers(x: Tensor) -> Tensor:
    return torch.zeros_like(x[:, :1, :, :5]).masked_fill(~allowed(x), -math.inf)


@pytest.mark.parametrize("mask", [allowed, as_numbers])
@pytest.mark.parametrize("how", [{}, {"scale": 0.3}], ids=str)
def test_a_row_that_forbids_every_key_gives_zeros(mask, how) -> None:
    module = Calls(lambda x: F.scaled_dot_product_attention(x, x, x, mask(x), **how))
    assert_written_out(module, ATTENTION_RULES, 4, 5, 8)
    assert not module(torch.randn(2, 4, 5, 8))[:, :, 4].any()


def test_heads_that_share_keys_are_told_apart() -> None:
    def function(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:], allowed(x), enable_gqa=True)

    assert_written_out(Calls(function), ATTENTION_RULES, 4, 5, 8)


def test_what_follows_may_view_the_result_as_it_did() -> None:
    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            rows, mask = x.transpose(0, 1), (x[:, :, :5] > 0).repeat_interleave(2, 0)
            return self.attention(rows, rows, rows, attn_mask=mask, need_weights=False)[0].transpose(0, 1)

    assert_written_out(Heads(), ATTENTION_RULES, 5, 8)


@pytest.mark.parametrize(
    "mask", [lambda x: None, lambda x: torch.ones(5, 5).double().tril().log()], ids=["no", "fixed"]
)
def test_attention_without_a_decided_mask_stays_whole(mask) -> None:
    module, x = Calls(lambda x: F.scaled_dot_product_attention(x, x, x, mask(x))), torch.randn(2, 4, 5, 8).double()
    program = torch.export.export(module, (x,), strict=False).run_decompositions({})
    assert rewritten(program, ATTENTION_RULES) is program
    assert {*ATTENTION_RULES} & {node.target for node in calls_of(program)}
