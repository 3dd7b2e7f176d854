"""A ranking as it is kept: what every block measured, of which files, on which machine. All that is said of it is
worked out from that, so that a report made years later says what the command said.

``RANKING_FORMAT`` is its version. What a later edgevit adds has a default; what this one does not know is left aside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from typing_extensions import Self

from edgevit.artifact.goodness import Quality
from edgevit.profiles.interleave import least_blocks
from edgevit.profiles.record import Text

RANKING_FORMAT = 1
MOST = 12  # entrants: as many models are held open at once
Milliseconds = Annotated[FiniteFloat, Field(gt=0)]


class _Kept(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class KeptQuality(Quality):
    """Of a file that a later edgevit may have written."""

    model_config = ConfigDict(extra="ignore")


class Entrant(_Kept):
    """An artifact on a runtime: who it is, and what its speed costs.

    content    hash of its files' hashes: an artifact that was exported anew has another one
    why        the proof could not be run here; None where it was
    computed   what the engine computed in, by its own word; None before it was opened
    max_rel    largest output error ÷ largest reference output on this runtime, held against ``tolerance``
    quality    how good its answers are, by its task's metric, where that was measured
    """

    artifact: Text
    content: str
    model: Text
    target: str
    precision: str
    runtime: str
    version: str | None = None
    provider: str | None = None
    threads: int | None = None
    computed: str | None = None
    details: dict[str, str] = {}
    size: int | None = None
    parity: str = "unverified"
    why: Text | None = None
    max_rel: FiniteFloat | None = None
    tolerance: FiniteFloat | None = None
    quality: KeptQuality | None = None

    @model_validator(mode="before")
    @classmethod
    def _older(cls, said: Any) -> Any:
        """Of a classifier the ``top1`` on ``images`` of ``data``, as it was kept when there was nothing else."""
        if not isinstance(said, dict) or said.get("top1") is None or "quality" in said:
            return said
        return {
            **said,
            "quality": {
                "metric": "top-1",
                "value": said["top1"],
                "better": "higher",
                "data": said.get("data"),
                "images": said.get("images"),
            },
        }


class Round(_Kept):
    """One round of blocks, every entrant in a process of its own.

    blocks_ms  by entrant, its time in every block; ``p50_ms`` the median of all its samples
    others     share of the cores that other processes took meanwhile
    """

    blocks_ms: tuple[tuple[Milliseconds, ...], ...]
    p50_ms: tuple[Milliseconds, ...]
    others: FiniteFloat | None = None


class LeftOut(_Kept):
    """What was not ranked, and why."""

    name: Text
    why: Text


class RankingRecord(_Kept):
    """One race. ``measured`` is its end in UTC, ``options`` the runtime's for all, ``held_bytes`` what the open
    processes held together."""

    format: int = RANKING_FORMAT
    measured: str
    device: str
    environment: dict[str, Any]
    threads: int
    batch: int
    inputs: Text = "golden"
    options: dict[str, str] = {}
    entrants: tuple[Entrant, ...] = Field(min_length=2, max_length=MOST)
    rounds: tuple[Round, ...] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    held_bytes: int | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        count = len(self.entrants)
        for one in self.rounds:
            lengths = {len(times) for times in one.blocks_ms}
            if len(one.blocks_ms) != count or len(one.p50_ms) != count or len(lengths) != 1:
                raise ValueError("its blocks are not of all entrants")
            if min(lengths) < least_blocks(count):
                raise ValueError(f"{min(lengths)} blocks rank nothing")
        return self

    def only(self, places: tuple[int, ...]) -> RankingRecord:
        """The same race, had only these entrants run."""

        def kept(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[place] for place in places)

        rounds = tuple(
            one.model_copy(update={"blocks_ms": kept(one.blocks_ms), "p50_ms": kept(one.p50_ms)}) for one in self.rounds
        )
        return self.model_copy(update={"entrants": kept(self.entrants), "rounds": rounds})


def content_of(files: Mapping[str, str]) -> str:
    """One hash for all files of an artifact, by the hashes in its manifest."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()
