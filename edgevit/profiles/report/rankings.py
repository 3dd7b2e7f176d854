"""The rankings that artifacts hold, as far as they are of what the artifacts still are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgevit.errors import BadArtifact
from edgevit.profiles.ranking import stored
from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.ranking.entrants import told_apart
from edgevit.profiles.ranking.record import Entrant, RankingRecord


def rankings(paths: Sequence[Path], names: Mapping[str, str]) -> tuple[tuple[Ranking, ...], list[str]]:
    """The rankings kept in artifacts, the newest first; and sentences about what was left out.

    ``names``: what the report calls the sound artifacts, by the hash of their content. An entrant that is none of them
    was exported anew since, or is somewhere else.
    """
    problems: list[str] = []
    found: dict[str, RankingRecord] = {}
    for file in (file for path in paths for file in sorted((path / stored.FOLDER).glob("*.json"))):
        try:
            record = stored.read(file)
            found.setdefault(record.model_dump_json(), record)  # each artifact that took part has a copy
        except BadArtifact as exc:
            problems.append(str(exc))
    shown: list[RankingRecord] = []
    for record in sorted(found.values(), key=lambda one: one.measured, reverse=True):
        if any(_holds(newer, record) for newer in shown):
            continue
        places = tuple(place for place, one in enumerate(record.entrants) if one.content in names)
        problems += _gone(record, places)
        if len(places) > 1:
            shown.append(record.only(places))
    return tuple(Ranking(record, _labels(record.entrants, names)) for record in shown), problems


def _holds(newer: RankingRecord, older: RankingRecord) -> bool:
    """Whether a newer ranking of the same conditions has everybody of the older one."""
    return _series(newer) == _series(older) and _who(older) <= _who(newer)


def _series(it: RankingRecord) -> tuple[object, ...]:
    return it.device, it.environment.get("machine"), it.threads, it.batch, it.inputs, sorted(it.options.items())


def _who(it: RankingRecord) -> set[tuple[str, str, str | None]]:
    return {(one.content, one.runtime, one.provider) for one in it.entrants}


def _gone(record: RankingRecord, places: Sequence[int]) -> Iterator[str]:
    """A sentence for each entrant that is not what it was, and one where too few are left."""
    for place, one in enumerate(record.entrants):
        if place not in places:
            yield (
                f"the ranking of {record.measured} is shown without {one.artifact} on {one.runtime}: it was exported "
                "anew since, or is not among these folders; edgevit compare ranks again"
            )
    if len(places) < 2:
        yield f"the ranking of {record.measured} is not shown: {len(places)} of its {len(record.entrants)} are left"


def _labels(entrants: Sequence[Entrant], names: Mapping[str, str]) -> tuple[str, ...]:
    return told_apart([names[one.content] for one in entrants], [one.runtime for one in entrants])
