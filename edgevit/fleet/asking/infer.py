"""``edgevit infer``: images to the fleet, or to this process where there is none; top classes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import render
from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import Answer
from edgevit.bundle.opened import Bundle, opened
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.asking.answers import FleetAnswer
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.asking.where import Reached, Where, reach
from edgevit.fleet.bus.link import Link
from edgevit.foreign import read_bounded
from edgevit.images import MAX_BYTES, ImageError, decode
from edgevit.predict import (
    BundlePrediction,
    Failure,
    answers,
    best,
    check_labels,
    classifier,
    predict,
    scores_of,
)
from edgevit.runtimes.base import Session, open_session

DEADLINE_S = 1.0


@dataclass(frozen=True)
class Inference(BundlePrediction):
    """One image's best classes, where they were computed, and by how many of the sub-models."""

    def record(self) -> dict[str, Any]:
        missing = [{"part": one.part, "classes": list(one.classes)} for one in self.answer.missing]
        trace = {"trace": self.answer.trace} if isinstance(self.answer, FleetAnswer) else {}
        return {**super().record(), "missing": missing, **trace}


@dataclass(frozen=True)
class Shown:
    """What is said of an image: the ``top`` best classes, by these names or the model's own."""

    top: int
    labels: Sequence[str] | None


def infer_images(
    path: Path | str,
    images: Sequence[Path],
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
            yield from _there(reached, images, shown, deadline_s)
            return
        if where is None:
            say(f"no node serves {path}: running it in this process")
        yield from _here(model, images, shown)

    return _all_required(results(), require_all)


def _all_required(found: Iterator[Inference | Failure], require_all: bool) -> Iterator[Inference | Failure]:
    short: Inference | None = None
    for result in found:
        if isinstance(result, Inference) and result.answer.degraded:
            short = short or result
        yield result
    if require_all and short:
        raise FleetError(
            f"not every sub-model answered: {short.image}: {short.answer.sentence()}",
            hint="edgevit fleet status says who is there; a longer --deadline waits for the slow",
        )


def _there(reached: Reached, images: Sequence[Path], shown: Shown, deadline_s: float) -> Iterator[Inference | Failure]:
    """From the fleet."""
    with closing(reached):
        session = reached.session
        check_labels(shown.labels, session.count)
        ask = partial(_asked, deadline_s=deadline_s, names=shown.labels or session.labels, top=shown.top)
        yield from answers(lambda: nullcontext(session), ask, images)


def _here(model: Bundle | Artifact, images: Sequence[Path], shown: Shown) -> Iterator[Inference | Failure]:
    """From this process."""
    if isinstance(model, Bundle):
        for result in predict(model, images, top=shown.top, labels=shown.labels):
            if isinstance(result, BundlePrediction):
                yield Inference(**vars(result))
            elif isinstance(result, Failure):
                yield result
        return
    artifact = classifier(model, shown.labels)
    run = partial(_alone, names=shown.labels or artifact.manifest.labels, top=shown.top)
    yield from answers(partial(open_session, artifact), run, images)


def _asked(
    session: FleetSession, file: Path, *, deadline_s: float, names: Sequence[str] | None, top: int
) -> Inference | None:
    """The fleet's answer; None when it is not a number."""
    data = read_bounded(file, MAX_BYTES, "an image", error=ImageError)
    try:
        answer = session.answer(data, deadline_s)
    except ImageError:
        decode(file)  # says what is wrong with it, by its name
        raise
    return _inference(file, answer, names, top, "fleet")


def _alone(session: Session, file: Path, *, names: Sequence[str] | None, top: int) -> Inference | None:
    """One artifact's answer in this process."""
    started = time.perf_counter()
    scores = scores_of(session, file)
    answer = Answer(scores[np.newaxis], 1, (), (time.perf_counter() - started) * 1e3)
    return _inference(file, answer, names, top, "embedded")


def _inference(file: Path, answer: Answer, names: Sequence[str] | None, top: int, where: Where) -> Inference | None:
    scores = answer.logits[0]
    return Inference(str(file), best(scores, names, top), answer, where) if np.isfinite(scores).all() else None
