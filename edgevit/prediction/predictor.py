"""A model that looks at pictures: an artifact or a bundle in this process, opened once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import BundleSession
from edgevit.bundle.opened import Bundle, opened
from edgevit.errors import ParityFailed, Unsupported, UsageError
from edgevit.prediction.answering import one_by_one, row_of, scores_of, together, told
from edgevit.prediction.given import Image, pictures
from edgevit.prediction.labels import check_labels
from edgevit.prediction.picture import Picture
from edgevit.prediction.results import BundlePrediction, Failure, Prediction, best
from edgevit.prediction.videos import Sampling
from edgevit.runtimes.base import Session, open_session

AT_ONCE = 32  # pictures that are held at a time, where the artifact takes more


class Predictor:
    """An opened artifact or bundle: pictures in, best classes out. ``edgevit.open_predictor`` makes one; close it, or
    use it in a ``with``."""

    def __init__(self, session: Session | BundleSession, names: Sequence[str] | None, top: int) -> None:
        self.session = session
        self._best = partial(best, labels=names, count=top)

    def predict(
        self, images: Image | Iterable[Image], *, sampling: Sampling | None = None
    ) -> list[Prediction | Failure]:
        """One result for each picture, in order, as ``edgevit.predict`` gives them."""
        return list(self.stream(images, sampling=sampling))

    def stream(
        self, images: Image | Iterable[Image], *, sampling: Sampling | None = None
    ) -> Iterator[Prediction | Failure]:
        """The same, each as soon as it is done: for folders and videos whose answers no list should hold."""
        return self.answers(pictures(images, sampling))

    def answers(self, found: Iterable[Picture | Failure], *, at_once: int = AT_ONCE) -> Iterator[Prediction | Failure]:
        """One result for each picture, in order; an artifact takes up to ``at_once`` of them together, as far as its
        batch allows."""
        if isinstance(self.session, BundleSession):  # whose answers say how long each took
            return one_by_one(partial(self._fused, self.session), found)
        count = min(self.session.artifact.manifest.batch.max, at_once)
        return together(partial(row_of, self.session), partial(self._told, self.session), found, count)

    def _told(self, session: Session, found: Sequence[Picture], rows: Sequence[Array]) -> Iterator[Prediction | None]:
        doubts = session.artifact.manifest.model.weights.doubts()
        for picture, scores in zip(found, scores_of(session, rows), strict=True):
            yield told(Prediction, picture, scores, self._best, doubts=doubts)

    def _fused(self, session: BundleSession, picture: Picture) -> BundlePrediction | None:
        answer = session.answer(session.rows([picture.pixels()]))
        return told(BundlePrediction, picture, answer.logits[0], self._best, answer=answer)

    def close(self) -> None:
        """Release the model."""
        self.session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_predictor(
    path: Bundle | Artifact | Path | str,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    top: int = 5,
    provider: str | None = None,
    labels: Sequence[str] | None = None,
    trust: bool = False,
    without: Sequence[str] = (),
) -> Predictor:
    """An artifact or a bundle, opened to say the ``top`` best classes of any number of pictures.

    ``runtime``, ``threads``, ``provider`` and ``trust`` are those of ``edgevit.open_session``. ``labels`` are class
    names instead of the model's own. A bundle runs in this process; the parts in ``without`` are left out. Raises
    Unsupported for an artifact that is no classifier, ParityFailed for one that failed its proof, UsageError,
    BadArtifact, MissingDependency.

        with edgevit.open_predictor("artifacts/digits") as predictor:
            for result in predictor.stream(["photos", "photo.jpg"]):
                print(result.line())
    """
    if top < 1:
        raise UsageError(f"top must be 1 or more, got {top}")
    opening: dict[str, Any] = {"runtime": runtime, "threads": threads, "provider": provider, "trust": trust}
    model = opened(path)
    if isinstance(model, Bundle):
        bundle = model.checked(without=without)
        check_labels(labels, len(bundle.manifest.classes))
        return Predictor(BundleSession(bundle, without=without, **opening), labels or bundle.manifest.classes, top)
    if without:
        raise UsageError(f"{model.path} is not a bundle, so it has no parts to leave out", hint="drop --without")
    artifact = classifier(model, labels)
    return Predictor(open_session(artifact, **opening), labels or artifact.manifest.labels, top)


def predict(
    path: Bundle | Artifact | Path | str,
    images: Image | Iterable[Image],
    *,
    runtime: str | None = None,
    threads: int | None = None,
    top: int = 5,
    provider: str | None = None,
    labels: Sequence[str] | None = None,
    trust: bool = False,
    without: Sequence[str] = (),
    sampling: Sampling | None = None,
) -> list[Prediction | Failure]:
    """The best classes of pictures, by an artifact or a bundle that is opened for them: see ``open_predictor``.

    ``images`` is one picture or an iterable of them: a path (of a picture, a folder, a glob, a video, or ``camera:0``),
    a numpy array (height, width, 3) of uint8 in RGB, or a PIL image. Each gives a ``Prediction``, in order; a file that
    cannot be read gives a ``Failure``. ``sampling`` says which frames of videos are looked at. UsageError for what is
    no picture at all, such as an array of another shape.

        for result in edgevit.predict("artifacts/digits", ["photo.jpg", pixels]):
            print(result.image, result.top[0].label, result.top[0].probability)
    """
    opening: dict[str, Any] = {"runtime": runtime, "threads": threads, "top": top, "provider": provider}
    with open_predictor(path, labels=labels, trust=trust, without=without, **opening) as predictor:
        return predictor.predict(images, sampling=sampling)


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
