"""How accurate a fused prediction is with all parts, and with some of them missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from edgevit.split.features import Features

NOTICEABLE = 0.10  # a class suffers when at least this share of its images is no longer recognised
LOOKED_AT = 2  # missing parts up to which the classes that suffer are looked at
ALL_SUBSETS = 10  # parts up to which every subset is measured: a node may hold any of them


@dataclass(frozen=True)
class Remaining:
    """Accuracy over all ways to miss so many parts: their mean, and the worst of them, without ``worst_parts``."""

    mean: float
    worst: float
    worst_parts: tuple[int, ...]


@dataclass(frozen=True)
class Degradation:
    """Fused top-1 accuracy on held-out images, fractions.

    losses      accuracy without exactly these parts (indices, ascending): all single ones and all pairs; of at most
                ``ALL_SUBSETS`` parts also all larger subsets
    suffering   classes (indices) that suffer noticeably without them, for single ones and pairs
    """

    fused: float
    losses: Mapping[tuple[int, ...], float]
    suffering: Mapping[tuple[int, ...], tuple[int, ...]]

    def missing(self, count: int) -> Remaining | None:
        """Accuracy with ``count`` parts missing; None where that would leave none."""
        shares = {parts: share for parts, share in self.losses.items() if len(parts) == count}
        if not shares:
            return None
        worst = min(shares, key=shares.__getitem__)
        return Remaining(sum(shares.values()) / len(shares), shares[worst], worst)


def degradation(head: nn.Module, features: Features) -> Degradation:
    """Measure a fusion head on held-out features, with all parts and without the subsets that ``losses`` names."""
    count = len(features.parts)
    most = count - 1 if count <= ALL_SUBSETS else min(LOOKED_AT, count - 1)
    fused = _right(head, features, ())
    cases = [case for lost in range(1, most + 1) for case in combinations(range(count), lost)]
    right = {case: _right(head, features, case) for case in cases}
    return Degradation(
        fused=_share(fused),
        losses={case: _share(answers) for case, answers in right.items()},
        suffering={
            case: _suffering(fused, answers, features.labels)
            for case, answers in right.items()
            if len(case) <= LOOKED_AT
        },
    )


@torch.no_grad()
def _right(head: nn.Module, features: Features, missing: Sequence[int]) -> Tensor:
    """(N,) booleans: which images are recognised without the parts ``missing``."""
    present = torch.ones(len(features), len(features.parts))
    present[:, list(missing)] = 0.0
    head.eval()
    answers: Tensor = head(*features.parts, present).argmax(1)
    return answers == features.labels


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _suffering(before: Tensor, after: Tensor, labels: Tensor) -> tuple[int, ...]:
    lost = {
        label: _share(before[labels == label]) - _share(after[labels == label])
        for label in sorted(set(labels.tolist()))
    }
    return tuple(label for label, share in lost.items() if share >= NOTICEABLE)
