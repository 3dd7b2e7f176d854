"""Two to twelve models in turns, each in a process of its own, one running at a time; what is claimed was found twice.

All are held open, so that a turn costs no start. A difference that the first round shows is measured again in fresh
processes that are opened in the reverse order: where a process happens to put a model in memory lasts as long as the
process, can cost a few percent, and looks like a difference.
"""

from __future__ import annotations

import datetime
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from edgevit.cpu import checked_threads
from edgevit.errors import EdgeVitError, UsageError
from edgevit.profiles import environment
from edgevit.profiles.environment import device_of
from edgevit.profiles.interleave import Schedule, compare_ratios, in_turns, least_blocks, outside_band
from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.ranking.budget import Plan, planned
from edgevit.profiles.ranking.entrants import Runner, common_batch, labels_of, runners
from edgevit.profiles.ranking.processes import Lost, Others, Processes, opened
from edgevit.profiles.ranking.record import LeftOut, RankingRecord, Round
from edgevit.runtimes import feeds
from edgevit.sizes import Sides

Progress = Callable[[str, float | None], None]

SCHEDULE = Schedule(blocks=15, turn_s=0.005, turn_runs=3, warm_runs=1, warm_s=0.001, max_blocks=1000)
SECONDS = 15.0  # for each entrant, both rounds together


@dataclass(frozen=True)
class Terms:
    """How a race is run. ``trust`` and ``options`` (for all) are those of ``open_session``.

    blocks   the fewest of a round
    seconds  of both rounds with all that is opened for them: a round that has used its half gets no more blocks than it
             needs
    strict   whether one that fails ends the race; else it is left out, while two are left
    image_size  (height, width) out of the ranges that all take; None: the size that each was made for
    """

    threads: int | None = None
    provider: str | None = None
    batch: int | None = None
    data: str | None = None
    blocks: int | None = None
    seconds: float | None = None
    trust: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    strict: bool = True
    image_size: tuple[int, int] | None = None

    @property
    def given(self) -> feeds.Given:
        """What every entrant is fed."""
        return feeds.Given(self.data, size=self.image_size)

    @property
    def fed(self) -> str:
        """That in words."""
        return self.given.called + (f" at {Sides(*self.image_size)}" if self.image_size else "")

    def schedule(self, entrants: int) -> Schedule:
        """UsageError for fewer blocks than so many entrants need."""
        least = least_blocks(entrants)
        if self.blocks is not None and self.blocks < least:
            raise UsageError(f"a comparison of {entrants} needs at least {least} blocks, got {self.blocks}")
        blocks = self.blocks or SCHEDULE.blocks
        return replace(SCHEDULE, blocks=blocks, max_blocks=max(blocks, SCHEDULE.max_blocks or blocks))

    def lasting(self, entrants: int) -> float:
        """Seconds that a race of so many is given."""
        return SECONDS * entrants if self.seconds is None else self.seconds


def race(
    paths: Sequence[Path | str],
    runtimes: Sequence[str] = (),
    terms: Terms | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank artifacts, on one runtime each or on several, by their times in turns.

    Every artifact gets its own golden rows, or the images of ``terms.data``, in rotation. Raises as ``runners`` does;
    UsageError when they do not take the same inputs; WorkerFailed when a process crashed; open_session's errors.
    """
    return run(runners(paths, runtimes), terms or Terms(), progress or _unseen)


def _unseen(stage: str, fraction: float | None) -> None:
    """Progress that nobody asked for."""


@dataclass
class _Race:
    """A race while it runs. ``payloads`` are of those that are still in it; ``facts`` of those that were opened."""

    found: Sequence[Runner]
    terms: Terms
    progress: Progress
    schedule: Schedule
    payloads: dict[int, dict[str, Any]]
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    held_bytes: int | None = None

    def lose(self, index: int, error: EdgeVitError) -> None:
        """Go on without it. Raises the error where that is no race any more, or the terms forbid it."""
        if self.terms.strict or len(self.payloads) <= 2:
            raise error
        del self.payloads[index]
        one = self.found[index]
        self.left_out.append(LeftOut(name=f"{one.artifact.path.name} on {one.runtime}", why=str(error)))


def run(found: Sequence[Runner], terms: Terms, progress: Progress) -> Ranking:
    """The race of runners that were checked."""
    rows, threads, schedule = (
        common_batch(found, terms.batch, terms.given),
        checked_threads(terms.threads),
        terms.schedule(len(found)),
    )
    with tempfile.TemporaryDirectory(prefix="edgevit-race-") as folder:
        payloads = {
            index: {
                "artifact": str(one.artifact.path),
                "runtime": one.runtime,
                "feeds": str(feeds.write(one.artifact, Path(folder) / f"{index}.npz", batch=rows, given=terms.given)),
                "threads": threads,
                "provider": terms.provider,
                "trust": terms.trust,
                "options": dict(terms.options),
            }
            for index, one in enumerate(found)
        }
        it = _Race(found, terms, progress, schedule, payloads)
        rounds = _rounds(it)
    return _ranking(it, rounds, rows, threads)


def _rounds(it: _Race) -> list[Round]:
    """Both rounds, begun again without an entrant whose process failed."""
    while True:
        try:
            return _both(it)
        except Lost as lost:
            it.lose(lost.index, lost.error)


def _both(it: _Race) -> list[Round]:
    """One round, and a second one in fresh processes, opened in reverse, when the first one shows a difference."""
    half = it.terms.lasting(len(it.payloads)) / 2
    rounds, plan = [], None
    for stage, step in (("comparing", 1), ("comparing again", -1)):
        until = time.monotonic() + half
        it.progress(f"{stage}, opening {len(it.payloads)}", None)
        with opened(it.payloads, list(it.payloads)[::step]) as processes:
            plan = plan or _plan(it, processes, until)
            rounds.append(_round(it, processes, plan, until, stage))
        if not _differs(rounds[0]):
            break
    return rounds


def _plan(it: _Race, processes: Processes, until: float) -> Plan:
    """By the calls that were seen while they were opened. Who does not fit is lost here, and its process idles."""
    it.facts, it.held_bytes = processes.facts, processes.held_bytes
    calls_s = {index: facts["call_s"] for index, facts in processes.facts.items()}
    plan = planned(calls_s, it.schedule, until - time.monotonic(), strict=it.terms.strict)
    for index, why in plan.left_out.items():
        it.lose(index, UsageError(why))
    return plan


def _round(it: _Race, processes: Processes, plan: Plan, until: float, stage: str) -> Round:
    """Blocks until ``until`` (time.monotonic), or until they tell enough."""
    schedule = replace(it.schedule, seed=random.randrange(2**32), limit_s=max(0.0, until - time.monotonic()))
    begun, whole = time.monotonic(), schedule.limit_s
    turns = {str(index): processes.turn(index, plan.turns[index]) for index in it.payloads}

    def shown(done: int, blocks: int) -> None:
        spent = (time.monotonic() - begun) / whole if whole else 1.0
        it.progress(stage, min(1.0, max(done / blocks, spent)))

    with Others(processes) as others:
        found = in_turns(turns, schedule, on_block=shown)
    processes.check()
    return Round(
        blocks_ms=tuple(tuple(found.block_medians(name)) for name in turns),
        p50_ms=tuple(found.p50_ms(name) for name in turns),
        others=others.share,
    )


def _differs(one: Round) -> bool:
    """Whether a round shows anybody to be slower than who seems fastest."""
    base = min(one.blocks_ms, key=median)
    ratios = ([two / one for one, two in zip(base, other, strict=True)] for other in one.blocks_ms if other is not base)
    return any(outside_band(compare_ratios("", "", found, len(one.blocks_ms)).ratio) for found in ratios)


def _ranking(it: _Race, rounds: Sequence[Round], rows: int, threads: int) -> Ranking:
    here = environment.collect()
    names = ("provider", "threads", "details")
    entrants = tuple(
        it.found[index]
        .entrant()
        .model_copy(
            update={
                **{name: it.facts[index][name] for name in names},
                "computed": it.facts[index]["precision"],
            }
        )
        for index in it.payloads
    )
    record = RankingRecord(
        measured=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        device=device_of(here),
        environment=here.record(),
        threads=threads,
        batch=rows,
        inputs=it.terms.fed,
        options=dict(it.terms.options),
        entrants=entrants,
        rounds=tuple(rounds),
        left_out=tuple(it.left_out),
        held_bytes=it.held_bytes,
    )
    return Ranking(record, labels_of(entrants))
