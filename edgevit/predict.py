"""Images in, top classes out. A broken image is one line and does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgevit import render
from edgevit.addresses import shown
from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import Answer, BundleSession
from edgevit.bundle.opened import Bundle, opened
from edgevit.errors import ParityFailed, Unsupported, UsageError
from edgevit.foreign import read_json, read_text
from edgevit.images import ImageError, decode
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import run_rows


@dataclass(frozen=True)
class Guess:
    """One class and its probability."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The best classes of one image, best first."""

    image: str
    top: tuple[Guess, ...]

    def record(self) -> dict[str, Any]:
        return {"image": self.image, "top": [vars(guess) for guess in self.top]}

    def line(self) -> str:
        return f"{self.image}: " + ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in self.top)

    def notes(self) -> tuple[str, ...]:
        """What a reader should be told once, whatever the number of images."""
        return ()


P = TypeVar("P", bound=Prediction)


@dataclass(frozen=True)
class BundlePrediction(Prediction):
    """What a bundle says: where it ran, how many of its sub-models answered, and which are missing."""

    answer: Answer
    where: str = "embedded"

    def record(self) -> dict[str, Any]:
        return {
            **super().record(),
            "where": self.where,
            "parts": self.answer.parts,
            "answered": self.answer.answered,
            "degraded": self.answer.degraded,
            "missing": [missing.record() for missing in self.answer.missing],
            "latency_ms": self.answer.latency_ms,
        }

    def line(self) -> str:
        return f"{super().line()}; {self.answer.sentence()}"

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{one.part} did not answer: {one.reason}" for one in self.answer.missing if not one.left_out)


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why."""

    image: str
    error: str

    def record(self) -> dict[str, Any]:
        return {"image": self.image, "error": self.error}

    def line(self) -> str:
        return f"error: {self.error}"

    def notes(self) -> tuple[str, ...]:
        return ()


def predict(
    model: Bundle | Artifact | Path | str,
    images: Sequence[Path],
    *,
    runtime: str | None = None,
    threads: int | None = None,
    top: int = 5,
    provider: str | None = None,
    labels: Sequence[str] | None = None,
    trust: bool = False,
    without: Sequence[str] = (),
) -> Iterator[Prediction | Failure]:
    """One result per image, in order, as each is done. ``trust`` is that of ``open_session``.

    ``model`` is a bundle or an artifact, or where it lies. A bundle runs in this process; the parts in ``without`` are
    left out. What cannot work is raised at once: Unsupported for an artifact that is no classifier, ParityFailed for
    one that failed its proof, UsageError, BadArtifact. The session is opened when the first result is asked for.
    """
    if top < 1:
        raise UsageError(f"top must be 1 or more, got {top}")
    opening: dict[str, Any] = {"runtime": runtime, "threads": threads, "provider": provider, "trust": trust}
    model = opened(model)
    if isinstance(model, Bundle):
        bundle = model.checked(without=without)
        check_labels(labels, len(bundle.manifest.classes))
        together = partial(BundleSession, bundle, without=without, **opening)
        return answers(together, partial(_fused, names=labels or bundle.manifest.classes, top=top), images)
    if without:
        raise UsageError(f"{model.path} is not a bundle, so it has no parts to leave out", hint="drop --without")
    artifact = classifier(model, labels)
    alone = partial(open_session, artifact, **opening)
    return answers(alone, partial(single, names=labels or artifact.manifest.labels, top=top), images)


def classifier(artifact: Artifact, labels: Sequence[str] | None) -> Artifact:
    """The artifact. Unsupported where it is no image classifier, ParityFailed where it failed its proof,
    UsageError for ``labels`` of another number than its classes."""
    artifact.check_seal()
    manifest, path = artifact.manifest, artifact.path
    image, logits, preprocess = manifest.image_input(), manifest.logits_output(), manifest.preprocess
    if image is None or logits is None or preprocess is None or len(manifest.inputs) != 1:
        raise Unsupported(f"{path} is not an image classifier", hint="run it from Python: edgevit.open_session(…)")
    if manifest.parity.status == "failed":
        raise ParityFailed(
            f"{path} failed its proof ({manifest.parity.reason}), so its answers mean nothing", hint="export it again"
        )
    check_labels(labels, logits.shape[-1])
    return artifact


def check_labels(labels: Sequence[str] | None, classes: int | str) -> None:
    """UsageError where ``labels`` are of another number."""
    if labels is not None and len(labels) != classes:
        raise UsageError(
            f"{render.counted(len(labels), 'label')} for {classes} classes", hint="one label per class, in order"
        )


def answers(
    opened: Callable[[], AbstractContextManager[Any]],
    classify: Callable[[Any, Path], P | None],
    images: Sequence[Path],
) -> Iterator[P | Failure]:
    """What ``classify`` makes of each image in an opened session; a Failure for a broken one, and where it is None."""
    with opened() as session:
        for file in images:
            try:
                found = classify(session, Path(file))
            except ImageError as error:
                name, said = shown(Path(file)), str(error) + (f"; {error.hint}" if error.hint else "")
                yield Failure(name, said if said.startswith(name) else f"{name}: {said}")
                continue
            yield found or Failure(str(file), f"{file}: the model's output holds NaN or infinity; run edgevit verify")


def single(session: Session, file: Path, *, names: Sequence[str] | None, top: int) -> Prediction | None:
    """One artifact's answer; None when it is not a number."""
    scores = scores_of(session, file)
    return Prediction(str(file), best(scores, names, top)) if np.isfinite(scores).all() else None


def _fused(session: BundleSession, file: Path, *, names: Sequence[str], top: int) -> Prediction | None:
    """A bundle's answer; None when it is not a number."""
    answer = session.answer(session.rows([decode(file)]))
    scores = answer.logits[0]
    return BundlePrediction(str(file), best(scores, names, top), answer) if np.isfinite(scores).all() else None


def scores_of(session: Session, file: Path) -> Array:
    """(classes,) logits of one image; a larger fixed batch is filled up with it."""
    manifest = session.artifact.manifest
    image, logits, preprocess = manifest.image_input(), manifest.logits_output(), manifest.preprocess
    if image is None or logits is None or preprocess is None:
        raise Unsupported(f"{session.artifact.path} is not an image classifier")
    row = preprocess(decode(file)).astype(image.dtype, copy=False)
    scores: Array = run_rows(session, {image.name: row[None]}, manifest.batch.min)[logits.name][0]
    return scores


def best(scores: Array, labels: Sequence[str] | None, count: int) -> tuple[Guess, ...]:
    """The ``count`` largest of (classes,) logits as probabilities. A class without a name is called by its index."""
    shifted = np.exp(scores.astype(np.float64) - scores.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple(Guess(labels[i] if labels else str(i), int(i), float(probabilities[i])) for i in order)


def read_labels(path: Path | None) -> tuple[str, ...] | None:
    """Class names from a text file (one a line) or JSON (a list, or {index: name}); None for no file."""
    if path is None:
        return None
    what, hint = "a list of labels", "one label a line, or JSON: a list, or {index: name}"
    is_json = path.suffix.lower() == ".json"
    found = read_json(path, what, hint=hint) if is_json else read_text(path, what, hint=hint).strip().splitlines()
    if isinstance(found, dict):
        found = [found.get(str(index)) for index in range(len(found))]
    if not isinstance(found, list) or not found or not all(isinstance(label, str) and label.strip() for label in found):
        raise UsageError(f"{path} does not name every class", hint=hint)
    return tuple(label.strip() for label in found)
