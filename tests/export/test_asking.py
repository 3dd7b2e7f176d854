"""The source model is asked about many images in groups that fit, whatever it computes on the way."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgevit.export.asking import logits_of, outputs_of

ROWS = np.random.default_rng(0).normal(size=(7, 3, 4, 4)).astype(np.float32)
WIDE = 1000  # values on the way, for each one of a row


class Widens(nn.Module):
    """A row of 48 values becomes 48,000 on the way, 192 kB, to two scores."""

    sizes: ClassVar[list[int]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(len(image))
        wide = image.flatten(1).repeat(1, WIDE)
        return torch.stack([wide.mean(dim=1), wide.amax(dim=1)], dim=1)


@pytest.mark.parametrize(("room", "sizes"), [(1, [1] * 7), (600_000, [1, 3, 3]), (1 << 30, [1, 6])], ids=str)
def test_as_many_rows_are_run_at_once_as_fit(room: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.export.asking.ROOM", room)
    monkeypatch.setattr(Widens, "sizes", [])
    ask = logits_of(Widens())
    logits = ask(ROWS)
    assert Widens.sizes == sizes
    np.testing.assert_array_equal(logits, Widens()(torch.from_numpy(ROWS)).numpy())
    Widens.sizes.clear()
    ask(ROWS[:2])
    assert sum(Widens.sizes) == 2
    assert max(Widens.sizes) <= sizes[-1]


class Several(nn.Module):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"map": image * 2, "mean": image.mean(dim=(1, 2, 3))}


def test_all_outputs_of_all_rows_come_back_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.export.asking.ROOM", 1)
    found = outputs_of(Several(), "output")(ROWS)
    np.testing.assert_array_equal(found["map"], ROWS * 2)
    assert found["mean"].shape == (7,)
    assert logits_of(Several())(ROWS) is None


class Branches(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        light = image.mean()
        return torch.cond(light > 0, lambda x: x.flatten(1)[:, :2] + 1, lambda x: x.flatten(1)[:, :2] - 1, (image,))


def test_a_model_with_branches_is_asked_too() -> None:
    rows = ROWS[:1] + 10
    np.testing.assert_array_equal(logits_of(Branches())(rows), rows.reshape(1, -1)[:, :2] + 1)
