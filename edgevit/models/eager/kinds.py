"""What a kind of decision is: a gap, what it is a share of, and what would be decided otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Named = Mapping[str, Any]  # a call's arguments, by the names that its operator has for them
aten = torch.ops.aten


def operators(names: str) -> frozenset[Any]:
    """torch's operators of these names, in all their overloads."""
    return frozenset(getattr(aten, name) for name in names.split())


@dataclass
class Turning:
    """Which decisions are to be made otherwise, of those that are no further from it than ``limit``.

    bit    of their numbers: those that have it are turned, or ``others`` than those; all of them where it is None
    exact  whether a gap of nothing is none that rounding makes
    close  how many there were so far
    """

    limit: float
    bit: int | None = None
    others: bool = False
    exact: bool = False
    close: int = 0

    def picks(self, gap: Tensor) -> Tensor:
        """Of every decision, by its gap, whether it is to be turned."""
        near = gap.abs() <= self.limit
        if self.exact:
            near &= gap != 0
        # numbered one by one: neighbours, whose effects may cancel, are turned without each other
        numbers = near.flatten().cumsum(0).reshape(near.shape) - 1 + self.close
        self.close += int(near.sum())
        return near if self.bit is None else near & (((numbers >> self.bit) & 1).bool() != self.others)

    @property
    def parity(self) -> int | None:
        """Of the ranks that change places with the next; None where chance says which."""
        first = {(None, False): 0, (0, False): 1}
        return first.get((self.bit, self.others))

    def chances(self, like: Tensor) -> Tensor:
        """By which one of many is picked; the same each time."""
        seed = 1 + 2 * (self.bit or 0) + self.others
        return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


@dataclass(frozen=True)
class Kind:
    """One kind of decision, as functions of a call's arguments and of what was decided, whoever decided it.

    gap     how far each is from being another; less than nothing where the arguments would decide otherwise
    size    the magnitude of what it was decided among
    other   what is decided where a ``Turning`` turns it
    made    what was decided, of the call's result
    result  the call's result, if that was decided
    exact   whether a gap of nothing is no coincidence where it is one in every precision: relu(x) > 0, x == x.max()
    """

    gap: Callable[[Named, Tensor], Tensor]
    size: Callable[[Named, Tensor], Tensor]
    other: Callable[[Named, Tensor, Turning], Tensor]
    made: Callable[[Named, Any], Tensor] = lambda _, result: result
    result: Callable[[Named, Tensor], Any] = lambda _, made: made
    exact: bool = True
