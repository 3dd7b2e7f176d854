"""Rankings as files: one copy in the rankings/ folder of every artifact that took part, so that it travels with any."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from edgevit.artifact.files import write_atomically
from edgevit.disk import why
from edgevit.errors import BadArtifact
from edgevit.foreign import read_bounded
from edgevit.profiles.formats import checked, parsed
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
    return of_record(parsed(file, read_bounded(file, MAX_BYTES, "a ranking", error=BadArtifact)), str(file))


def of_record(found: object, whose: str) -> RankingRecord:
    """A ranking from its JSON; ``whose`` names it in sentences."""
    return checked(found, RankingRecord, RANKING_FORMAT, whose, "ranking", "compare again")


def ranking_of(record: RankingRecord) -> Ranking:
    """What it says, its entrants named by their folders."""
    return Ranking(record, labels_of(record.entrants))
