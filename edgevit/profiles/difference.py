"""What a comparison found, as data and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgevit.profiles.interleave import Comparison, compare_ratios, outside_band, sentence, speed
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
        return [*sides, ("measured", measured), *(("note", note) for note in self.notes), ("", self.sentence())]


def combined(rounds: Sequence[Comparison], ratios: Sequence[Sequence[float]]) -> Ratio:
    """The median of all blocks, and the interval that covers every round's: two processes are too few to tell how
    much processes differ."""
    value = compare_ratios("", "", [ratio for one in ratios for ratio in one]).ratio.value
    return Ratio(value, min(one.ratio.low for one in rounds), max(one.ratio.high for one in rounds))
