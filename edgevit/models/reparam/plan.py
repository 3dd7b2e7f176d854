"""A plan: the steps that fold one model, remembered so that they can be taken again on other weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Step = Callable[[nn.Module], nn.Module]  # edits the tree below its argument and returns the (perhaps new) root


@dataclass
class Plan:
    """``root`` is the tree as folded so far, ``steps`` led there, ``inputs`` is what the model can be run on."""

    root: nn.Module
    inputs: Sequence[Any] | None
    steps: list[Step] = field(default_factory=list)
    folded: Counter[str] = field(default_factory=Counter)
    left: dict[str, str] = field(default_factory=dict)

    def take(self, step: Step, kind: str | None = None) -> None:
        """Take ``step`` now, remember it, and count it as one ``kind`` of fold."""
        self.root = step(self.root)
        self.steps.append(step)
        if kind is not None:
            self.folded[kind] += 1

    def replay(self, root: nn.Module) -> nn.Module:
        """The same steps on another copy of the model."""
        for step in self.steps:
            root = step(root)
        return root
