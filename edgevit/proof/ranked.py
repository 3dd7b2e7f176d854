"""Outputs in the order of a score, such as the boxes that a detector is surest of: equal scores have no order.

Two engines that agree on every score put those that tie in either order, and take either of two that tie at the end.
So rows are matched before they are compared: a row may stand for one whose score it has within the tolerance, if all
that belongs to it agrees too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.shelf import Named, Shelf
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


def ranks_of(outputs: Named) -> Ranks | None:
    """The ranks that the reference's outputs have, or None: scores that fall in every row, and what goes with them."""
    for name, value in outputs.items():
        if isinstance(value, Shelf) or value.dtype.kind != "f" or not _falls(value):
            continue
        members = tuple(
            other for other, rows in outputs.items() if rows.ndim >= 2 and tuple(rows.shape[:2]) == value.shape[:2]
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


def matching_of(reference: Reference) -> Matching | None:
    """What matches an artifact's rows with the reference's, where that has ranks."""
    ranks = ranks_of(reference.known)
    if ranks is None:
        return None
    hanging = [name for name in ranks.members if name in reference.clear and reference.bound(name).hanging is not None]
    return Matching(ranks, {name: _limit(reference, name) for name in ranks.members}, hanging)


@dataclass
class Matching:
    """Puts the rows of an artifact's ranks where the reference has them.

    limits  by output, how far a value may lie from the reference's; integers and booleans agree or do not
    hanging outputs of which some values hang on decisions inside the model
    counts  by batch size, how many ranks there are, how many must be there, for how many another row was taken, and
            how many are not there because a decision inside the model is too close to call
    """

    ranks: Ranks
    limits: Mapping[str, float]
    hanging: Collection[str] = ()
    counts: dict[int, list[int]] = field(default_factory=dict)

    def matched(
        self,
        batch: int,
        row: int,
        got: Mapping[str, Array],
        want: Mapping[str, Array],
        marks: Mapping[str, Array],
    ) -> Mapping[str, Array]:
        """One row of all outputs with its ranks in the reference's order, and the reference's own where one was cut off
        by a tie, or hangs on a decision that was turned: ``marks`` say which values do not. As it was given where an
        output is missing."""
        if not set(self.ranks.members) <= set(got):
            return got
        one = {name: (want[name], got[name], self.limits[name]) for name in self.ranks.members}
        order, clear, turned = _order(one, self.ranks.scores, self._hanging(marks, len(want[self.ranks.scores])))
        counts = self.counts.setdefault(batch, [0, 0, 0, 0])
        moved = order != np.arange(len(order))
        for index, some in enumerate((clear.size, clear.sum(), moved.sum(), turned.sum())):
            counts[index] += int(some)
        found = dict(got)
        for name in self.ranks.members:
            taken = got[name][order]
            taken[~clear] = want[name][~clear]
            found[name] = taken
        return found

    def _hanging(self, marks: Mapping[str, Array], count: int) -> Array:
        found = np.zeros(count, bool)
        for name in self.hanging:
            found |= ~marks[name].reshape(count, -1).all(axis=1)
        return found

    def shares(self) -> dict[str, float | int]:
        """Of all ranks those that had to be there, and those that another row was taken for; the worst batch size."""
        if not self.counts:
            return {}
        return {
            "clear": min(clear / count for count, clear, _, _ in self.counts.values()),
            "changed": max(moved / count for count, _, moved, _ in self.counts.values()),
            "values": max(count for count, *_ in self.counts.values()),
            "turned": max(turned for *_, turned in self.counts.values()),
        }


def _limit(reference: Reference, name: str) -> float:
    if reference.known[name].dtype.kind != "f":
        return 0.0
    return reference.bound(name).tolerance * reference.scale(name)


def _order(
    members: Mapping[str, tuple[Array, Array, float]], scores: str, hanging: Array
) -> tuple[Array, Array, Array]:
    """(which of the artifact's rows stands for each of the reference's, whether it must, whether none does because of
    what it hangs on) of one image."""
    want, have = (value.reshape(-1).astype(np.float64) for value in members[scores][:2])
    limit = members[scores][2]
    near = [np.flatnonzero(np.abs(have - score) <= limit) for score in want]
    partners = [_agreeing(members, rank, candidates) for rank, candidates in enumerate(near)]
    order = _assigned(partners, len(want))
    left, turned = order < 0, (order < 0) & hanging
    # What ties with the last of all may have been cut off in favour of another.
    cut = left & ~turned & (want <= want[-1] + 2 * limit)
    if cut.sum() > max(1, len(want) // CUT):
        cut[:] = False
    order[left] = sorted(set(range(len(want))) - set(order[~left].tolist()))
    return order, ~cut & ~turned, turned


def _agreeing(members: Mapping[str, tuple[Array, Array, float]], rank: int, candidates: Array) -> list[int]:
    """Those candidates that agree in everything, the one in its own place first."""
    if not len(candidates):
        return []
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
