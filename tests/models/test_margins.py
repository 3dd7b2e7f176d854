"""The margin of a decision is what would have to change for another one, and it goes where the decision goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgevit.models.eager.margins import Margins

SCORES = torch.tensor([[[4.0, 1.0], [1.0, 3.0]], [[3.0, 1.5], [1.0, 4.0]]])  # two classes of 2 × 2, largest is 4


def margins_of(decide: Callable[[Tensor], Tensor], scores: Tensor = SCORES) -> Tensor:
    with Margins() as margins:
        result = decide(scores.clone())
        found = margins.of(result)
    assert found is not None
    assert found.shape == result.shape
    return found


def test_an_argmax_is_as_sure_as_its_best_is_ahead_of_the_second() -> None:
    assert margins_of(lambda x: x.argmax(0)).tolist() == [[0.25, 0.125], [0.0, 0.25]]


def test_a_comparison_is_as_sure_as_the_value_is_far_from_the_threshold() -> None:
    assert margins_of(lambda x: x[0] > 2).tolist() == [[0.5, 0.25], [0.25, 0.25]]
    assert margins_of(lambda x: x[0] < x[1]).tolist() == [[0.25, 0.125], [0.0, 0.25]]


def test_a_rounding_is_as_sure_as_the_value_is_far_from_the_half() -> None:
    values = torch.tensor([0.25, 1.5, 2.0, -1.75])
    assert margins_of(lambda x: x.round(), values).tolist() == [0.125, 0.0, 0.25, 0.125]
    assert margins_of(lambda x: x.round().clamp(0, 255).to(torch.uint8), values).tolist() == [0.125, 0.0, 0.25, 0.125]
    assert margins_of(lambda x: x.floor(), values).tolist() == [0.125, 0.25, 0.0, 0.125]
    assert margins_of(lambda x: x.to(torch.int64), values).tolist() == [0.375, 0.25, 0.0, 0.125]


def test_a_rank_is_as_sure_as_its_neighbours_are_far() -> None:
    scores = torch.tensor([[1.0, 8.0, 5.0, 4.0]], dtype=torch.float64)
    assert margins_of(lambda x: x.topk(3).indices, scores).tolist() == [[0.375, 0.125, 0.125]]
    assert margins_of(lambda x: x.topk(2, largest=False).indices, scores)[0].tolist() == pytest.approx([0.6, 0.2])
    assert margins_of(lambda x: x.sort(descending=True).indices, scores).tolist() == [[0.375, 0.125, 0.125, 0.375]]


@pytest.mark.parametrize(
    "moved",
    [
        lambda labels: labels.to(torch.uint8).reshape(4),
        lambda labels: labels.float()[None, None].repeat(1, 1, 2, 1)[0, 0, :2].reshape(-1).long(),
        lambda labels: torch.tensor([7, 3])[labels].flatten(),
        lambda labels: torch.cat([labels[:1], labels[1:]]).flatten(),
        lambda labels: torch.where(labels > 0, labels * 2, labels).flatten(),
    ],
    ids=["cast", "repeated", "looked up", "cut and joined", "chosen"],
)
def test_a_margin_goes_where_its_decision_goes(moved: Callable[[Tensor], Tensor]) -> None:
    assert margins_of(lambda x: moved(x.argmax(0))).tolist() == [0.25, 0.125, 0.0, 0.25]


def test_an_enlarged_label_map_has_the_margins_of_what_it_was_enlarged_from() -> None:
    enlarge = torch.nn.Upsample(scale_factor=2, mode="nearest")
    found = margins_of(lambda x: enlarge(x.argmax(0)[None, None].float()).long())
    assert found[0, 0, ::2, ::2].tolist() == [[0.25, 0.125], [0.0, 0.25]]


def test_where_decisions_meet_the_least_sure_counts() -> None:
    assert margins_of(lambda x: (x[0] > 2) & (x[1] > 2)).tolist() == [[0.25, 0.125], [0.25, 0.25]]
    assert margins_of(lambda x: (x[0] > 2).all(-1)).tolist() == [0.25, 0.25]


def test_a_model_that_decides_nothing_has_no_margins() -> None:
    with Margins() as margins:
        assert margins.of(SCORES * 2) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-6, 0.3))
def test_no_change_of_less_than_half_its_margin_turns_a_decision(seed: int, amount: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64)

    def decide(x: Tensor) -> Tensor:
        return torch.stack([x.argmax(0), (x[0] > 0.1).long(), (x[1] > x[2]).long()])

    with Margins() as margins:
        before = decide(scores)
        sure = margins.of(before)
    noise = (torch.rand(scores.shape, generator=generator, dtype=torch.float64) * 2 - 1) * amount
    after = decide(scores + noise)
    assert sure is not None
    smallest = float(scores.abs().amax((1, 2)).min())  # of the scales that the margins are shares of
    assert not ((before != after) & (sure > 2 * amount / smallest)).any()
