"""Which of a model's artifacts is fastest here: all that ran, on every runtime that opens them, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgevit import render
from edgevit.artifact.claim import claimed
from edgevit.artifact.goodness import Quality
from edgevit.artifact.opened import Artifact
from edgevit.benchmark.job import BenchmarkJob, Row
from edgevit.benchmark.ledger import Ledger
from edgevit.benchmark.proving import proved, verified
from edgevit.disk import filling
from edgevit.errors import BadArtifact, EdgeVitError, Interrupted
from edgevit.profiles import environment
from edgevit.profiles.ranking import stored
from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.ranking.entrants import Runner, runtimes_here
from edgevit.profiles.ranking.race import Terms, run
from edgevit.profiles.ranking.record import MOST, LeftOut, content_of

Progress = Callable[[str, float | None], None]
PROOF = {"parity": "status", "why": "reason", "max_rel": "max_rel"}  # an entrant's names of what a parity says


@dataclass(frozen=True)
class Answer:
    """One model's. ``ranking`` is None where fewer than two ran; ``left_out`` says who did not, and why."""

    model: str
    ranking: Ranking | None
    left_out: tuple[LeftOut, ...]
    alone: str | None = None
    reused: bool = False

    def sentence(self) -> str:
        if self.ranking:
            return f"{self.model}: {self.ranking.sentence()}"
        if self.alone:
            return f"{self.model}: {self.alone} is the only one that can be ranked here, so nothing is"
        return f"{self.model}: there is nothing here that can be ranked"

    def notes(self) -> list[str]:
        """What else has to be known."""
        if self.ranking:
            return [self.ranking.measured(), *self.ranking.notes()]
        return [f"not ranked: {one.name}: {one.why}" for one in self.left_out]

    def record(self) -> dict[str, Any]:
        """As JSON-ready values."""
        left_out = [one.model_dump(mode="json") for one in self.left_out]
        found = self.ranking.as_record() if self.ranking else {"left_out": left_out, "standings": []}
        return {"model": self.model, **found, "answer": self.sentence(), "reused": self.reused}

    def of_row(self, row: Row) -> dict[str, Any]:
        """What the answer says of one row, whose figures are None where it was not ranked."""
        blank: dict[str, Any] = dict.fromkeys(("place", "ratio", "interval95", "slower"))
        standings = self.record()["standings"]
        who = (str(row.artifact), row.runtime)
        mine = next((one for one in standings if (one["artifact"], one["runtime"]) == who), blank)
        return {"answer": self.sentence(), **{name: mine[name] for name in blank}}


def ranked(job: BenchmarkJob, rows: Sequence[Row], progress_for: Callable[[str], Progress]) -> list[Answer]:
    """One answer for each model of the job, measured now or by an earlier run; never across models.

    Raises Interrupted on Ctrl-C; the rows are kept, and so are the answers that there were.
    """
    with claimed(job.out), filling(job.out):
        ledger = Ledger(job.out)
        try:
            return [
                _answer(job, model, [row for row in rows if row.model == model], ledger, progress_for(model))
                for model in dict.fromkeys(job.models)
            ]
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped while ranking; every row is kept in {job.out}", hint="run the same command again to go on"
            ) from None


def _answer(job: BenchmarkJob, model: str, rows: Sequence[Row], ledger: Ledger, progress: Progress) -> Answer:
    left_out = [LeftOut(name=_name(row), why=why) for row in rows if (why := _unfit(row))]
    fit = sorted((row for row in rows if not _unfit(row)), key=_p50)
    more = list(_other_runtimes(job, fit))
    entrants = [(row.files, str(row.runtime)) for row in fit] + [(it.manifest.files, name) for it, name in more]
    asked = _Asked(job, model, ledger, _request(job, entrants), progress)
    if kept := asked.kept():
        return kept
    found = [_runner(row) for row in fit]
    for artifact, name in more:
        try:
            progress(f"verify {artifact.path.name} on {name}", None)
            proof, _ = verified(job, artifact, name)
            row = Row(model, artifact.manifest.target, **proved(proof))
            found.append(Runner(artifact, name, _known(row.parity, row.how_good())))
        except EdgeVitError as error:
            left_out.append(LeftOut(name=f"{artifact.path.name} on {name}", why=str(error)))
    left_out += [LeftOut(name=_named(one), why=f"{MOST} are held open at once at most") for one in found[MOST:]]
    return asked.raced(found[:MOST], left_out)


@dataclass(frozen=True)
class _Asked:
    """One model's question. ``request`` is all that decides what a race finds."""

    job: BenchmarkJob
    model: str
    ledger: Ledger
    request: Mapping[str, Any]
    progress: Progress

    def kept(self) -> Answer | None:
        """The answer that the same request had, or None."""
        found = None if self.job.export.force else self.ledger.rankings.get(self.model)
        if found is None or found.get("request") != self.request:
            return None
        try:
            ranking = stored.ranking_of(stored.of_record(found.get("record"), "the ranking in benchmark.json"))
        except BadArtifact:
            return None
        return Answer(self.model, ranking, ranking.record.left_out, reused=True)

    def raced(self, found: Sequence[Runner], left_out: Sequence[LeftOut]) -> Answer:
        """The answer, measured and kept."""
        if len(found) < 2:
            return Answer(self.model, None, tuple(left_out), _named(found[0]) if found else None)
        it = self.job
        terms = Terms(it.export.threads, it.provider, data=it.export.data, seconds=it.rank_s, strict=False)
        how_long = f"at most about {terms.lasting(len(found)):.0f} s"
        self.progress(f"which is fastest? {len(found)} in turns, {how_long} (--rank-seconds, --no-rank)", None)
        try:
            raced = run(found, terms, self.progress)
        except EdgeVitError as error:
            lost = (LeftOut(name=_named(one), why=str(error)) for one in found)
            return Answer(self.model, None, (*left_out, *lost))
        record = raced.record.model_copy(update={"left_out": (*left_out, *raced.record.left_out)})
        return self._keep(Ranking(record, raced.labels))

    def _keep(self, ranking: Ranking) -> Answer:
        for problem in stored.save(ranking):
            render.say(problem)
        record = ranking.record.model_dump(mode="json")
        self.ledger.rankings[self.model] = {"request": dict(self.request), "record": record}
        self.ledger.save()
        return Answer(self.model, ranking, ranking.record.left_out)


def _runner(row: Row) -> Runner:
    return Runner(Artifact.open(str(row.artifact)), str(row.runtime), _known(row.parity, row.how_good()))


def _request(job: BenchmarkJob, entrants: Sequence[tuple[Mapping[str, str], str]]) -> dict[str, Any]:
    """All that decides what a race finds."""
    here = environment.collect()
    return {
        "entrants": sorted([content_of(files), runtime] for files, runtime in entrants),
        "threads": job.export.threads,
        "provider": job.provider,
        "data": job.export.data,
        "seconds": job.rank_s,
        "edgevit": here.edgevit,
        "machine": f"{here.machine} {environment.device_of(here)}",
    }


def _unfit(row: Row) -> str | None:
    """Why a row is not ranked."""
    if row.error:
        return str(row.error)
    status = (row.parity or {}).get("status")
    return (
        None if status == "verified" else f"{status or 'unverified'}: {(row.parity or {}).get('reason') or 'no proof'}"
    )


def _other_runtimes(job: BenchmarkJob, fit: Sequence[Row]) -> Iterator[tuple[Artifact, str]]:
    """Where no runtime was named: the others that open an artifact here."""
    seen = {(row.artifact, row.runtime) for row in fit}
    for path in () if job.runtimes else dict.fromkeys(row.artifact for row in fit if row.artifact):
        artifact = Artifact.open(path)
        for name in runtimes_here(artifact):
            if (path, name) not in seen:
                yield artifact, name


def _known(parity: Mapping[str, Any] | None, good: Quality | None) -> dict[str, Any]:
    """Proof and quality as they were found on the very runtime."""
    told = {name: (parity or {}).get(key) for name, key in PROOF.items()}
    told["quality"] = good.model_dump(mode="json") if good else None
    return {name: value for name, value in told.items() if value is not None}


def _p50(row: Row) -> float:
    return (row.profile.p50_ms if row.profile else None) or float("inf")


def _name(row: Row) -> str:
    return row.target + (f" on {row.runtime}" if row.runtime else "")


def _named(one: Runner) -> str:
    return f"{one.artifact.path.name} on {one.runtime}"
