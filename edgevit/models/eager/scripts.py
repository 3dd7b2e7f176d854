"""What is decided while a model runs: put down, decided again in another precision, or turned where it is close.

A run in another precision that turns one decision is elsewhere from there on, and says nothing of rounding any more. So
the decisions of one run are put down, and the other decides as that did: how far it is off then is rounding alone, of
its outputs and at each of its decisions. Where a decision is no further from being another than that, the model is
run again with it turned, which shows all that hangs on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgevit.models.eager.decisions import Decision
from edgevit.models.eager.kinds import Turning
from edgevit.precisions import CLEAR, FLOOR, NOISE_FACTOR, Array

KEPT = 1 << 20  # gaps of a decision: more are sampled
FAR = 1e3  # times the gap of half of them: what is masked by a large number says nothing of rounding


@dataclass(frozen=True)
class Put:
    """One decision as it was made.

    made     packed: bits of booleans, the smallest integers that hold the others
    gaps     every ``stride``-th
    nearest  the smallest gap, and the smallest but for those of nothing
    size     the largest magnitude that it was decided among, where it is near
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    made: Array
    gaps: Tensor
    stride: int
    nearest: tuple[float, float]
    size: float

    @classmethod
    def of(cls, decision: Decision, made: Tensor) -> Put:
        gaps, size = decision.gap(made).double().flatten(), decision.kind.size(decision.named, made)
        above = gaps[gaps > 0]
        stride = max(1, -(-gaps.numel() // KEPT))
        near = min(_least(gaps), _least(above)), _least(above)
        sizes = size.flatten() if size.numel() == gaps.numel() else size.max().reshape(1).expand(gaps.shape)
        sizes = sizes[gaps <= _far(gaps)].nan_to_num(0.0, 0.0, 0.0)
        largest = float(sizes.max()) if sizes.numel() else 0.0
        return cls(decision.name, made.shape, made.dtype, _packed(made), gaps[::stride].clone(), stride, near, largest)

    def again(self) -> Tensor:
        """What was decided."""
        if self.dtype is torch.bool:
            bits = np.unpackbits(self.made, count=math.prod(self.shape))
            return torch.from_numpy(bits.astype(np.bool_)).reshape(self.shape)
        return torch.from_numpy(self.made).to(self.dtype).reshape(self.shape)


def _packed(made: Tensor) -> Array:
    if made.dtype is torch.bool:
        return np.packbits(made.numpy().reshape(-1))
    values = made.contiguous().numpy()
    if made.is_floating_point():
        return np.array(values)
    kinds = (np.int8, np.int16, np.int32)
    ends = (int(values.min(initial=0)), int(values.max(initial=0)))
    kind = next((kind for kind in kinds if np.iinfo(kind).min <= ends[0] and ends[1] <= np.iinfo(kind).max), np.int64)
    return np.array(values, kind)


def _least(gaps: Tensor) -> float:
    return float(gaps.min()) if gaps.numel() else math.inf


def _far(gaps: Tensor) -> float:
    above = gaps[(gaps > 0) & gaps.isfinite()]
    return FAR * float(above.kthvalue(len(above) // 2 + 1).values) if len(above) else math.inf


@dataclass
class Record:
    """Puts down what is decided."""

    put: list[Put] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    def take(self, decision: Decision, made: Tensor) -> Tensor:
        self.put.append(Put.of(decision, made))
        return made


@dataclass
class Level:
    """Of one decision, over all rows.

    moved    how far rounding moves its gaps
    size     the largest magnitude that it is decided among
    exact    whether gaps of nothing stay so in every precision
    """

    moved: float = 0.0
    size: float = 0.0
    exact: bool = True

    @classmethod
    def unknown(cls) -> Level:
        """Of a decision that another precision does not come to: nothing is clear of noise."""
        return cls(math.inf, math.inf, False)

    def add(self, other: Level) -> None:
        self.moved, self.size = max(self.moved, other.moved), max(self.size, other.size)
        self.exact &= other.exact

    @property
    def limit(self) -> float:
        """A decision is clear of noise above it."""
        return CLEAR * max(self.moved, self.size * FLOOR / NOISE_FACTOR)


@dataclass
class Repeat:
    """Decides as a record does, and keeps how far gaps moved meanwhile.

    levels  of every decision
    lost    whether the run takes another way than the one recorded: from there on it decides by itself
    """

    record: Record
    levels: list[Level] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    lost: bool = False

    def take(self, decision: Decision, made: Tensor) -> Tensor:
        put = self.record.put[len(self.levels)] if len(self.levels) < len(self.record.put) else None
        fits = put is not None and (put.name, put.shape, put.dtype) == (decision.name, made.shape, made.dtype)
        self.lost |= not fits and not (put is not None and _alike(put, decision, made))
        if put is None or self.lost:
            self.levels.append(Level.unknown())
            return made
        again = put.again().to(made.dtype)
        self.levels.append(_level(put, decision.gap(again).double().flatten()[:: put.stride], decision.kind.exact))
        return again


def _alike(put: Put, decision: Decision, made: Tensor) -> bool:
    """Whether it is the same decision, of floats of another type."""
    return put.name == decision.name and put.shape == made.shape and put.dtype.is_floating_point


def _level(put: Put, gaps: Tensor, exact: bool) -> Level:
    near = (put.gaps <= _far(put.gaps)) | (gaps < 0)
    known = put.gaps.isfinite() & gaps.isfinite() & near
    moved = (gaps - put.gaps).abs()[known]
    stays = exact and bool((gaps[put.gaps == 0] == 0).all())
    return Level(float(moved.max()) if moved.numel() else 0.0, put.size, stays)


@dataclass
class Turn:
    """Turns decisions that are not clear of noise: all of them, or those that ``bit`` and ``others`` pick, as a
    ``Turning``. A decision that is close only because others were turned is one of them.

    levels  of every decision
    unused  the numbers of those that nothing comes of
    close   how many could have been turned, counting what else could have been decided
    """

    levels: Sequence[Level]
    unused: frozenset[int] = frozenset()
    bit: int | None = None
    others: bool = False
    close: int = 0
    used: set[int] = field(default_factory=set)
    _count: int = 0

    def take(self, decision: Decision, made: Tensor) -> Tensor:
        number, self._count = self._count, self._count + 1
        if number >= len(self.levels) or number in self.unused:
            return made
        level = self.levels[number]
        turning = Turning(level.limit, self.bit, self.others, level.exact and decision.kind.exact, self.close)
        other = decision.kind.other(decision.named, made, turning)
        self.close = turning.close
        return made if torch.equal(other, made) else other
