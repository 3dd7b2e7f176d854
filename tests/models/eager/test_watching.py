from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.models.eager.margins import Margins
from edgevit.models.eager.promotion import doubled, in_full, promoted
from edgevit.models.macs import count_macs


class Ways(nn.Module):
    """Goes one of two ways, each with a cast of its own, and decides at the end of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(
            x.sum() > 0, lambda v: self.layer(v).float() + v, lambda v: (self.layer(v) - v).half().float(), (x,)
        )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_control_flow_is_watched_inside_and_left_as_it_was(sign: float) -> None:
    model, x = Ways().eval(), torch.full((1, 3), sign)
    with torch.no_grad():
        with promoted():
            exact = doubled(model)(x.double())
        with in_full(), Margins() as margins:
            full = model(x)
            decided = torch.cond(x.sum() > 0, lambda v: v.argmax(1), lambda v: v.argmin(1), (torch.eye(3),))
        wanted = model.layer(x) + sign * x
        assert torch.equal(full, wanted), "half precision inside a branch"
        assert exact.dtype is torch.float64
        assert (exact - wanted).abs().max() < 1e-6
        assert margins.of(decided) is not None
        assert (model(x) - wanted).abs().max() < 1e-3, "PyTorch itself no longer runs control flow"


def test_macs_of_a_model_with_control_flow_are_counted() -> None:
    assert count_macs(Ways(), inputs=[torch.ones(1, 3)]) in (9, 18)  # of the way that was taken, or of both


class HandsOn(nn.Module):
    """Returns a parameter, as prompt encoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Embedding(2, 3), nn.Linear(3, 4)
        self.own = nn.ParameterList([nn.Parameter(torch.ones(3))])

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            raise ValueError("needs data")
        return self.layer(x + Handed(self.token.weight)() @ torch.ones(3, 3))


class Handed(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return self.weight


def test_macs_of_a_model_that_hands_parameters_on_and_needs_data_are_counted() -> None:
    assert count_macs(HandsOn(), inputs=[torch.ones(2, 3)]) == 2 * 3 * 3 + 2 * 3 * 4


@pytest.mark.parametrize(
    "picks",
    [
        lambda scores: scores[scores > 0.5],
        lambda scores: scores[(scores > 0.5).nonzero()[:, 0]],
        lambda scores: (scores > 0.5)[torch.tensor([True, False, True, False])],
        lambda scores: (scores > 0.5)[None, :][:, torch.tensor([0, 1])],
    ],
    ids=["mask", "nonzero", "mask-of-decided", "rows-of-decided"],
)
def test_rows_that_were_picked_by_a_decision_are_what_they_are(picks) -> None:
    scores = torch.tensor([0.1, 0.9, 0.7, 0.2])
    with Margins():
        assert torch.equal(picks(scores), picks(scores.clone()))
