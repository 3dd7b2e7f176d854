"""The MLP of transformer blocks."""

from __future__ import annotations

from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear layers around an exact GELU: (..., C) kept."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out
