"""Rankings as files: one copy in the rankings/ folder of every artifact that took part, so that it travels with any."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from pydantic import ValidationError

from edgevit.artifact.files import write_atomically
from edgevit.disk import why
from edgevit.errors import BadArtifact, first_line
from edgevit.foreign import read_bounded
from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.ranking.entrants import labels_of
from edgevit.profiles.ranking.record import RANKING_FORMAT, RankingRecord

FOLDER = "rankings"
MAX_BYTES = 16 << 20  # 12 entrants of 1000 blocks in two rounds are half a megabyte


def save(found: Ranking, now: datetime.datetime | None = None) -> list[str]:
    """Keep a ranking in the folders of its artifacts. Sentences about those that cannot be written."""
    stamp = (now or datetime.datetime.now(datetime.timezone.utc)).strftime("%Y%m%dT%H%M%S%fZ")
    text = json.dumps(found.record.model_dump(mode="json"), separators=(",", ":")) + "\n"
    problems = []
    for folder in dict.fromkeys(Path(one.artifact) for one in found.record.entrants):
        path = folder / FOLDER / f"{stamp}.json"
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, text)
        except OSError as exc:
            problems.append(f"the ranking was not kept: {path.parent} cannot be written ({why(exc)})")
    return problems


def read(file: Path) -> RankingRecord:
    """BadArtifact, in one sentence, when the file is no ranking of this format."""
    raw = read_bounded(file, MAX_BYTES, "a ranking", error=BadArtifact)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise BadArtifact(f"{file} cannot be read: {first_line(exc)}") from exc
    return of_record(found, str(file))


def of_record(found: object, whose: str) -> RankingRecord:
    """A ranking from its JSON; ``whose`` names it in sentences."""
    if not isinstance(found, dict) or "format" not in found:
        raise BadArtifact(f"{whose} is not a ranking of edgevit")
    if found["format"] != RANKING_FORMAT:
        raise BadArtifact(
            f"{whose} is in ranking format {found['format']!r}; this edgevit reads {RANKING_FORMAT}: compare again"
        )
    try:
        return RankingRecord.model_validate(found)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadArtifact(f"{whose} is damaged: {where}: {first['msg'].lower()}") from exc


def ranking_of(record: RankingRecord) -> Ranking:
    """What it says, its entrants named by their folders."""
    return Ranking(record, labels_of(record.entrants))
