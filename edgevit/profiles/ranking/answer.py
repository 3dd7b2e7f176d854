"""What a race says: who is first, by how much, who ties, at what cost. In numbers and in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import median
from typing import Any

from edgevit import render
from edgevit.profiles.interleave import BAND, Comparison, compare_ratios, outside_band
from edgevit.profiles.ranking.record import Entrant, RankingRecord
from edgevit.profiles.statistics import Ratio

COLUMNS = (
    "place",
    "artifact",
    "time",
    "95 % interval",
    "p50",
    "precision",
    "max rel. error",
    "quality",
    "size",
    "against the first",
)
TIE = "no difference can be claimed"


@dataclass(frozen=True)
class Standing:
    """One entrant against the fastest.

    place    1 + how many were shown to be faster: who ties has the same one
    ratio    its time ÷ the fastest's; the interval covers every round
    claimed  whether it was shown to be slower than the fastest, in two rounds
    """

    entrant: Entrant
    label: str
    place: int
    ratio: Ratio
    claimed: bool
    p50_ms: float

    @property
    def error(self) -> str:
        """The proof's largest error, held against its tolerance."""
        it = self.entrant
        if it.max_rel is None:
            return "—"
        return f"{it.max_rel:.1e}" + (f" of {it.tolerance:.0e}" if it.tolerance else "")

    @property
    def computed(self) -> str:
        """What it computed in."""
        return self.entrant.computed or self.entrant.precision


@dataclass(frozen=True)
class Ranking:
    """What a record supports. ``labels`` name its entrants in sentences."""

    record: RankingRecord
    labels: tuple[str, ...]

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """Sorted by estimate."""
        order = sorted(range(len(self.labels)), key=self._score)
        first = order[0]
        return tuple(
            Standing(
                self.record.entrants[one],
                self.labels[one],
                1 + sum(self.slower(one, than=other) for other in order if other != one),
                self.ratio(first, one) if one != first else Ratio(1.0, 1.0, 1.0),
                one != first and self.slower(one, than=first),
                math.fsum(found.p50_ms[one] for found in self.record.rounds) / len(self.record.rounds),
            )
            for one in order
        )

    def _score(self, one: int) -> float:
        """Median over blocks of its time ÷ the geometric mean of all: an order that has no circles."""
        shares = []
        for found in self.record.rounds:
            for times in zip(*found.blocks_ms, strict=True):
                shares.append(math.log(times[one]) - math.fsum(map(math.log, times)) / len(times))
        return median(shares)

    def comparisons(self, first: int, second: int) -> tuple[Comparison, ...]:
        """``second`` against ``first`` in every round."""
        names = self.labels[first], self.labels[second]
        return tuple(compare_ratios(*names, found, len(self.labels)) for found in self.block_ratios(first, second))

    def block_ratios(self, first: int, second: int) -> list[list[float]]:
        """Second's time ÷ first's, by round and block."""
        return [
            [two / one for one, two in zip(found.blocks_ms[first], found.blocks_ms[second], strict=True)]
            for found in self.record.rounds
        ]

    def ratio(self, first: int, second: int) -> Ratio:
        """Of all blocks, with the interval that covers those of all rounds: two processes are too few to tell how much
        processes differ."""
        rounds = self.comparisons(first, second)
        value = median(ratio for found in self.block_ratios(first, second) for ratio in found)
        return Ratio(value, min(one.ratio.low for one in rounds), max(one.ratio.high for one in rounds))

    def slower(self, one: int, *, than: int) -> bool:
        """Whether that may be claimed: two rounds or more, and each shows over 2 %."""
        low, high = sorted((one, than))
        return self._sides[low, high] == (1 if one == high else -1)

    @cached_property
    def _sides(self) -> dict[tuple[int, int], int]:
        """Of every pair: 1 where the second was shown to be slower, -1 where the first was, else 0."""
        found = {}
        for pair in combinations(range(len(self.labels)), 2):
            sides = [outside_band(one.ratio) for one in self.comparisons(*pair)]
            found[pair] = sides[0] if len(sides) > 1 and len(set(sides)) == 1 else 0
        return found

    @property
    def first(self) -> tuple[Standing, ...]:
        """The fastest, and those that were not shown to be slower."""
        return tuple(one for one in self.standings if not one.claimed)

    def sentence(self) -> str:
        """The one answer, and no more than may be said."""
        best, *others = self.standings
        if len(self.first) > 1:
            return self._tie()
        nearest = others[0]
        what = f"{best.label} is the fastest of {len(self.labels)}: {times(nearest.ratio)} faster than {nearest.label}"
        return what + self._price(best, nearest)

    def _tie(self) -> str:
        best, *others = self.first
        far = max(others, key=lambda one: one.ratio.high)
        within = f"{far.label} ÷ {best.label} = {far.ratio.value:.3f}, 95 % CI {far.ratio.low:.3f}–{far.ratio.high:.3f}"
        names = _listed([one.label for one in self.first])
        count = len(self.labels) - len(self.first)
        rest = "" if not count else f"; {'the other one is' if count == 1 else f'the other {count} are'} slower"
        return f"no difference larger than {BAND * 100:g} % can be claimed between {names} ({within}){rest}"

    def _price(self, best: Standing, nearest: Standing) -> str:
        """What the first gives for its place, where it is not the same computation."""
        if best.computed == nearest.computed:
            return ""
        return f"; it computes in {best.computed}, error {best.error}, the other in {nearest.computed}, {nearest.error}"

    def notes(self) -> list[str]:
        """What else has to be known: precisions, other programs, who was left out."""
        found, kinds = [], dict.fromkeys(one.computed for one in self.standings)
        if len(kinds) > 1:
            each = ", ".join(f"{one.label} in {one.computed}, error {one.error}" for one in self.standings)
            found.append(f"not the same computation: {each}")
        unproved = {it.artifact: it.why for it in self.record.entrants if it.parity != "verified"}
        found += [f"{path} is unverified" + (f": {why}" if why else "") for path, why in unproved.items()]
        known = [one.others for one in self.record.rounds if one.others is not None]
        if known and max(known) > 0.1:
            found.append(f"other processes took {max(known):.0%} of the cores meanwhile: a quieter machine tells more")
        return [*found, *(f"not ranked: {one.name}: {one.why}" for one in self.record.left_out)]

    def measured(self) -> str:
        """How, in words."""
        it = self.record
        blocks = " + ".join(str(len(one.blocks_ms[0])) for one in it.rounds)
        held = f" ({render.si(it.held_bytes, 'B')})" if it.held_bytes else ""
        fed = "" if it.inputs == "golden" else f" of {it.inputs}"
        return (
            f"{blocks} blocks in turns, batch {it.batch}{fed}, {render.counted(it.threads, 'thread')}, "
            f"{len(it.entrants)} processes held open{held}, one running at a time"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Cells of ``COLUMNS``."""
        return [self._row(one) for one in self.standings]

    def _row(self, it: Standing) -> tuple[str, ...]:
        base = it is self.standings[0]
        good = it.entrant.quality
        return (
            str(it.place),
            it.label,
            f"{it.ratio.value:.2f}×",
            "—" if base else f"{it.ratio.low:.2f}–{it.ratio.high:.2f}",
            render.ms(it.p50_ms),
            it.computed,
            it.error,
            good.figure() if good else "—",
            render.si(it.entrant.size, "B"),
            "" if base else "slower" if it.claimed else TIE,
        )

    def as_record(self) -> dict[str, Any]:
        """As JSON-ready values: the answer, the standings, who was left out and why."""
        it = self.record
        kept = it.model_dump(mode="json", include={"measured", "device", "threads", "batch", "inputs", "left_out"})
        return {"answer": self.sentence(), **kept, "standings": [_standing(one) for one in self.standings]} | {
            "notes": self.notes(),
            "blocks": [len(one.blocks_ms[0]) for one in it.rounds],
            "environment": it.environment,
        }


def _standing(it: Standing) -> dict[str, Any]:
    return {
        "place": it.place,
        "label": it.label,
        "ratio": it.ratio.value,
        "interval95": [it.ratio.low, it.ratio.high],
        "slower": it.claimed,
        "p50_ms": it.p50_ms,
        **it.entrant.model_dump(mode="json", exclude={"details"}),
    }


def times(ratio: Ratio) -> str:
    """ "1.31× (95 % CI 1.28–1.34)"."""
    return f"{ratio.value:.2f}× (95 % CI {ratio.low:.2f}–{ratio.high:.2f})"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
