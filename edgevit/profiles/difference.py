"""What a race of two found, seen from the first: as data and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgevit.cpu import crowding
from edgevit.profiles.interleave import Comparison, outside_band, sentence, speed
from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.ranking.record import Entrant
from edgevit.profiles.statistics import Ratio


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. ``label`` names it in the sentence; ``p50_ms`` is of all its samples."""

    label: str
    artifact: str
    runtime: str
    version: str | None
    provider: str
    threads: int
    details: Mapping[str, str]
    p50_ms: float


@dataclass(frozen=True)
class Difference:
    """B against A. One round, or two when the first one showed a difference.

    rounds   each from a fresh process; the second one opened B first
    ratio    B's time ÷ A's: of all blocks, and the interval that covers those of all rounds
    """

    first: Side
    second: Side
    rounds: tuple[Comparison, ...]
    ratio: Ratio
    batch: int
    inputs: str
    environment: Mapping[str, Any]
    notes: tuple[str, ...]
    block_ratios: tuple[tuple[float, ...], ...]

    @property
    def claimed(self) -> bool:
        """Whether two processes showed a difference of more than 2 % to the same side."""
        return len(self.rounds) > 1 and abs(sum(outside_band(one.ratio) for one in self.rounds)) == len(self.rounds)

    def sentence(self) -> str:
        """What may be said, and no more."""
        said = sentence(self.first.label, self.second.label, self.ratio, claimed=self.claimed)
        if self.claimed or len(self.rounds) == 1:
            return said
        one, two = (f"{found.ratio.value:.3f}" for found in self.rounds)
        return f"{said}: a first process showed {one}, which another one did not repeat ({two})"

    def short(self) -> str:
        """The same for a cell of a table: "2.30× faster, 2.21–2.38", or the ratio of times where nothing is claimed."""
        if not self.claimed:
            return f"{self.ratio.value:.2f} of the time, {self.ratio.low:.2f}–{self.ratio.high:.2f}"
        word, times = speed(self.ratio)
        return f"{times.value:.2f}× {word}, {times.low:.2f}–{times.high:.2f}"

    def record(self) -> dict[str, Any]:
        """The object of ``edgevit compare --json``."""
        return {
            "sentence": self.sentence(),
            "claimed": self.claimed,
            "ratio": asdict(self.ratio),
            "first": asdict(self.first),
            "second": asdict(self.second),
            "batch": self.batch,
            "inputs": self.inputs,
            "notes": list(self.notes),
            "environment": dict(self.environment),
            "rounds": [
                {**asdict(one), "claimed": one.claimed, "block_ratios": list(ratios)}
                for one, ratios in zip(self.rounds, self.block_ratios, strict=True)
            ],
        }

    def facts(self) -> list[tuple[str, str]]:
        """(topic, sentence) pairs for people."""
        blocks = " + ".join(str(one.blocks) for one in self.rounds)
        sides = [
            (side.label, f"p50 {side.p50_ms:.3g} ms, {side.runtime} {side.version or ''} {side.provider}".rstrip())
            for side in (self.first, self.second)
        ]
        measured = f"{blocks} blocks, batch {self.batch}, {self.first.threads} threads"
        fed = [] if self.inputs == "golden" else [("inputs", self.inputs)]
        return [*sides, ("measured", measured), *fed, *(("note", note) for note in self.notes), ("", self.sentence())]


def difference_of(found: Ranking) -> Difference:
    """A ranking of two, in the order in which they were given."""
    it = found.record
    p50s = [sum(one.p50_ms[index] for one in it.rounds) / len(it.rounds) for index in (0, 1)]
    first, second = (_side(*facts) for facts in zip(it.entrants, found.labels, p50s, strict=True))
    return Difference(
        first,
        second,
        found.comparisons(0, 1),
        found.ratio(0, 1),
        it.batch,
        it.inputs,
        it.environment,
        _notes(found, first, second),
        tuple(tuple(ratios) for ratios in found.block_ratios(0, 1)),
    )


def _side(it: Entrant, label: str, p50_ms: float) -> Side:
    return Side(label, it.artifact, it.runtime, it.version, it.provider or "", it.threads or 0, it.details, p50_ms)


def _notes(found: Ranking, one: Side, two: Side) -> tuple[str, ...]:
    """What else has to be known of the two, and of the threads that they had."""
    notes = [*found.notes(), *filter(None, [crowding(one.threads)])]
    if one.threads != two.threads:
        notes.append(f"{one.label} ran on {one.threads} threads, {two.label} on {two.threads}")
    return tuple(notes)
