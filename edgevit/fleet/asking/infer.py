"""``edgevit infer``: images to the fleet, or to this process where there is none; answers by the model's task out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import render
from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import Fused
from edgevit.bundle.opened import Bundle, opened
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.asking.answers import FleetAnswer
from edgevit.fleet.asking.looking import Looking
from edgevit.fleet.asking.where import Reached, Where, reach
from edgevit.fleet.bus.link import Link
from edgevit.foreign import read_bounded
from edgevit.images import MAX_BYTES, ImageError
from edgevit.prediction.answering import looked_at, one_by_one, outputs_of, told
from edgevit.prediction.given import Image, pictures
from edgevit.prediction.labels import check_labels
from edgevit.prediction.picture import Picture
from edgevit.prediction.predictor import open_predictor, predictable
from edgevit.prediction.results import BundlePrediction, Failure, classified, gathered_columns
from edgevit.prediction.tiling import Tiling, answer_of
from edgevit.runtimes.base import Session, open_session
from edgevit.tasks.reading import Reading

DEADLINE_S = 1.0


@dataclass(frozen=True)
class Inference(BundlePrediction):
    """What is said of one image, where it was computed, and by how many of the sub-models."""

    def record(self) -> dict[str, Any]:
        missing = [{"part": one.part, "classes": list(one.classes)} for one in self.gathered.missing]
        trace = {"trace": self.gathered.trace} if isinstance(self.gathered, FleetAnswer) else {}
        return {**super().record(), "missing": missing, **trace}


@dataclass(frozen=True)
class Shown:
    """What is said of an image: the ``top`` best classes, by these names or the model's own."""

    top: int
    labels: Sequence[str] | None


def infer_images(
    path: Path | str,
    images: Iterable[Image | Picture | Failure],
    *,
    link: Link | None = None,
    deadline_s: float = DEADLINE_S,
    require_all: bool = False,
    where: Where | None = None,
    top: int = 5,
    labels: Sequence[str] | None = None,
    say: Callable[[str], None] = render.say,
) -> Iterator[Inference | Failure]:
    """One result per image, in order, as each is done. A broken image is a Failure and does not stop the others.

    ``where`` forces the fleet or this process; see ``where.reach`` for what happens without. ``say`` is told when it
    is this process, where there is no deadline. FleetError when no sub-model answers an image, and after the last one
    when ``require_all`` and an answer was degraded.
    """
    if top < 1:
        raise UsageError(f"top must be 1 or more, got {top}")
    if not deadline_s > 0:
        raise UsageError(f"the deadline must be more than 0 s, got {deadline_s:g}")
    shown = Shown(top, labels)

    def results() -> Iterator[Inference | Failure]:
        model = opened(path)
        reached = reach(model, link=link or Link(), where=where)
        if reached is not None:
            yield from _there(reached, pictures(images), shown, deadline_s)
            return
        if where is None:
            say(f"no node serves {path}: running it in this process")
        yield from _here(model, pictures(images), shown)

    return _all_required(results(), require_all)


def _all_required(found: Iterator[Inference | Failure], require_all: bool) -> Iterator[Inference | Failure]:
    short: Inference | None = None
    for result in found:
        if isinstance(result, Inference) and result.gathered.degraded:
            short = short or result
        yield result
    if require_all and short:
        raise FleetError(
            f"not every sub-model answered: {short.image}: {short.gathered.sentence()}",
            hint="edgevit fleet status says who is there; a longer --deadline waits for the slow",
        )


def _there(
    reached: Reached, images: Iterable[Picture | Failure], shown: Shown, deadline_s: float
) -> Iterator[Inference | Failure]:
    """From the fleet."""
    with closing(reached):
        session = reached.session
        if session.artifact is None:
            check_labels(shown.labels, session.count)
        else:
            predictable(session.artifact, shown.labels)
        looking = Looking.of(session, shown.labels, shown.top)
        yield from one_by_one(partial(_asked, looking, deadline_s), images)


def _here(model: Bundle | Artifact, images: Iterable[Picture | Failure], shown: Shown) -> Iterator[Inference | Failure]:
    """From this process."""
    if isinstance(model, Bundle):
        with open_predictor(model, top=shown.top, labels=shown.labels) as predictor:
            for result in predictor.answers(images):
                if isinstance(result, BundlePrediction):
                    yield Inference(**vars(result))
                elif isinstance(result, Failure):
                    yield result
        return
    artifact = predictable(model, shown.labels)
    reading = Reading.of(artifact, shown.labels, shown.top)
    with open_session(artifact) as session:
        yield from one_by_one(partial(_alone, session, reading), images)


def _asked(looking: Looking, deadline_s: float, picture: Picture) -> Inference | None:
    """The fleet's answer; None when it is not a number."""

    def pixels() -> Array:
        return picture.pixels(looking.reading.steps.pixel_channels if looking.reading else 3)

    source = picture.source
    encoded = read_bounded(source, MAX_BYTES, "an image", error=ImageError) if isinstance(source, Path) else None
    try:
        answer, gathered = looking.look(pixels() if encoded is None else encoded, pixels, deadline_s)
    except ImageError:
        picture.pixels()  # says what is wrong with it, by its name
        raise
    return told(Inference, picture, answer, gathered=gathered, where="fleet")


def _alone(session: Session, reading: Reading, picture: Picture) -> Inference | None:
    """One artifact's answer in this process."""
    started = time.perf_counter()
    if Tiling.fits(reading):
        answer, first = answer_of(session, reading, picture), np.empty((1, 0), np.float32)
    else:
        looked = looked_at(reading, picture)
        outputs = outputs_of(session, reading, [looked])
        answer = reading.answer({name: array[0] for name, array in outputs.items()}, looked.size)
        logits = session.artifact.manifest.logits_output() or session.artifact.manifest.outputs[0]
        first = outputs[logits.name][:1]
    gathered = Fused(first, 1, (), (time.perf_counter() - started) * 1e3)
    return told(Inference, picture, answer, gathered=gathered)


def table_of(path: Path | str, top: int) -> tuple[tuple[str, ...], bool]:
    """The columns of a table of a model's answers, and whether these can be drawn. Raises what opening it raises."""
    model = opened(path)
    if isinstance(model, Bundle):
        return classified(top), False
    reading = Reading.of(model, top=top)
    return gathered_columns(reading.columns), reading.task.draws
