"""How good the source model's own answers are, where data says more of an image than its class."""

from __future__ import annotations

from edgevit.artifact.goodness import RecordedQuality
from edgevit.data.content import content_of
from edgevit.data.source import open_data
from edgevit.data.split import spread
from edgevit.tasks.metrics.base import NothingToJudge
from edgevit.tasks.metrics.measuring import IMAGES, Answers, Bench


def measure_quality(answers: Answers, data: str, bench: Bench, notes: list[str]) -> RecordedQuality | None:
    """The task's metric on the held-out part, at most 500 images; None where the data says nothing that it is judged
    by, and where that is of its kind but empty, one of the ``notes`` more. UsageError for data that does not fit the
    model: its classes, its sizes, a broken file."""
    held = spread(open_data(data, split="held-out"), IMAGES)
    try:
        found = bench.measure(answers, held)
    except NothingToJudge as reason:
        notes.append(f"how good it is on {data} was not measured: {reason}")
        return None
    return RecordedQuality(**found.quality.model_dump(), content=content_of(held)) if found else None
