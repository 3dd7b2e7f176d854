"""Outputs in the order of a score, such as the boxes that a detector is surest of: equal scores have no order.

Two engines that agree on every score put those that tie in either order, and take either of two that tie at the end.
So rows are matched before they are compared: a row may stand for one whose score it has within the tolerance, if all
that belongs to it agrees too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.proof.reference import Reference

FEWEST = 3  # ranks: two are in order by chance too often
CUT = 10  # of so many ranks one, at least one in all, may have been cut off by a tie: more would prove nothing


@dataclass(frozen=True)
class Ranks:
    """Outputs whose second axis counts ranks.

    scores   the output that they are ordered by: (rows, ranks), or (rows, ranks, 1)
    members  it, and all others that have a row for each rank
    """

    scores: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Matched:
    """Outputs with the rows of their ranks where the reference has them.

    outputs  the artifact's; where a rank was cut off by a tie, the reference's own
    clear    (rows, ranks): False for those
    moved    (rows, ranks): True where another row was taken than the one in its place
    """

    outputs: Mapping[str, Array]
    clear: Array
    moved: Array


def ranks_of(outputs: Mapping[str, Array]) -> Ranks | None:
    """The ranks that the reference's outputs have, or None: scores that fall in every row, and what goes with them."""
    for name, value in outputs.items():
        if value.dtype.kind != "f" or not _falls(value):
            continue
        members = tuple(
            other for other, rows in outputs.items() if rows.ndim >= 2 and rows.shape[:2] == value.shape[:2]
        )
        if len(members) > 1:
            return Ranks(name, members)
    return None


def _falls(value: Array) -> bool:
    if value.ndim not in (2, 3) or value.shape[1] < FEWEST or (value.ndim == 3 and value.shape[2] != 1):
        return False
    steps = np.diff(value.reshape(value.shape[:2]).astype(np.float64), axis=1)
    # a constant is in order too, and orders nothing
    return bool((steps <= 0).all() and (steps < 0).any(axis=1).all())


def matched(got: Mapping[str, Array], reference: Reference, ranks: Ranks) -> Matched | None:
    """The artifact's rows in the reference's order; None where shapes do not allow a comparison."""
    wanted = {name: reference.outputs[name] for name in ranks.members}
    if any(name not in got or got[name].shape != value.shape for name, value in wanted.items()):
        return None
    found = {name: np.array(got[name]) for name in ranks.members}
    rows, count = wanted[ranks.scores].shape[:2]
    clear, moved = np.ones((rows, count), bool), np.zeros((rows, count), bool)
    limits = {name: _limit(value, reference, name) for name, value in wanted.items()}
    for row in range(rows):
        one = {name: (wanted[name][row], found[name][row], limits[name]) for name in ranks.members}
        order, clear[row] = _order(one, ranks.scores)
        moved[row] = order != np.arange(count)
        for name, (want, have, _) in one.items():
            taken = have[order]
            taken[~clear[row]] = want[~clear[row]]
            found[name][row] = taken
    return Matched({**got, **found}, clear, moved)


def _limit(wanted: Array, reference: Reference, name: str) -> float:
    """How far a value may lie from the reference's; integers and booleans agree or do not."""
    if wanted.dtype.kind != "f":
        return 0.0
    return reference.bound(name).tolerance * (float(np.abs(wanted).max(initial=0.0)) or 1.0)


def _order(members: Mapping[str, tuple[Array, Array, float]], scores: str) -> tuple[Array, Array]:
    """(which of the artifact's rows stands for each of the reference's, whether it must) of one image."""
    want, have = (value.reshape(-1).astype(np.float64) for value in members[scores][:2])
    limit = members[scores][2]
    near = [np.flatnonzero(np.abs(have - score) <= limit) for score in want]
    partners = [_agreeing(members, rank, candidates) for rank, candidates in enumerate(near)]
    order = _assigned(partners, len(want))
    left = order < 0
    # What ties with the last of all may have been cut off in favour of another.
    cut = left & (want <= want[-1] + 2 * limit)
    if cut.sum() > max(1, len(want) // CUT):
        cut[:] = False
    order[left] = sorted(set(range(len(want))) - set(order[~left].tolist()))
    return order, ~cut


def _agreeing(members: Mapping[str, tuple[Array, Array, float]], rank: int, candidates: Array) -> list[int]:
    """Those candidates that agree in everything, the one in its own place first."""
    same = np.ones(len(candidates), bool)
    for want, have, limit in members.values():
        apart = np.abs(have[candidates].astype(np.float64) - want[rank].astype(np.float64))
        same &= (apart <= limit).reshape(len(candidates), -1).all(axis=1)
    return sorted((int(index) for index in candidates[same]), key=lambda index: index != rank)


def _assigned(partners: Sequence[Sequence[int]], count: int) -> Array:
    """For every rank one of its partners, each taken once, as many as can be (augmenting paths); -1 for the others."""
    taken: dict[int, int] = {}

    def placed(rank: int, seen: set[int]) -> bool:
        for partner in partners[rank]:
            if partner in seen:
                continue
            seen.add(partner)
            if partner not in taken or placed(taken[partner], seen):
                taken[partner] = rank
                return True
        return False

    for rank in range(count):
        placed(rank, set())
    order = np.full(count, -1)
    for partner, rank in taken.items():
        order[rank] = partner
    return order
