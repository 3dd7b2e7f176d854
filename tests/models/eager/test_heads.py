"""Whether a vector is scores is asked without keeping all that a forward computes."""

from __future__ import annotations

import weakref
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgevit.models.eager.heads import ends_in_head


class Remembers(nn.Module):
    """A classifier that knows which of its values are still there when it ends."""

    values: ClassVar[list[weakref.ref[Tensor]]] = []
    left: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        value = image.flatten(1)
        for layer in (self.body, nn.GELU(), self.head):
            value = layer(value)
            self.values.append(weakref.ref(value))
        self.left.append(sum(one() is not None for one in self.values))
        return value


def test_nothing_of_a_forward_is_kept_to_know_what_its_end_is_made_of() -> None:
    Remembers.values.clear(), Remembers.left.clear()
    with torch.no_grad():
        assert ends_in_head(Remembers(), torch.ones(1, 3, 2, 2))
    assert Remembers.left == [1]


class Scaled(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(12, 3))
        self.name = name

    def forward(self, image: Tensor) -> Tensor:
        return self.get_submodule(self.name)(image.flatten(1)).mul(2).softmax(-1)


def test_scores_that_are_scaled_afterwards_are_a_head_s_and_projections_are_not() -> None:
    with torch.no_grad():
        assert ends_in_head(Scaled("head"), torch.ones(1, 3, 2, 2))
        assert not ends_in_head(Scaled("projection"), torch.ones(1, 3, 2, 2))
        assert not ends_in_head(nn.Sequential(Scaled("head"), nn.ReLU(inplace=True)), torch.ones(1, 3, 2, 2))
