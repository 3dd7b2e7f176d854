"""A model that looks at pictures: an artifact or a bundle in this process, opened once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import BundleSession
from edgevit.bundle.opened import Bundle, opened
from edgevit.errors import ParityFailed, Unsupported, UsageError
from edgevit.prediction.answering import Looked, classes, looked_at, one_by_one, read, together, told
from edgevit.prediction.given import Image, pictures
from edgevit.prediction.labels import check_labels, check_labels_of
from edgevit.prediction.picture import Picture
from edgevit.prediction.results import BundlePrediction, Failure, Prediction, classified
from edgevit.prediction.tiling import Tiling, answer_with_outputs
from edgevit.prediction.videos import Sampling
from edgevit.runtimes.base import Session, open_session
from edgevit.tasks.reading import Reading

AT_ONCE = 32  # pictures that are held at a time, where the artifact takes more
BYTES_AT_ONCE = 256 << 20  # of outputs, above which it is fewer


class Predictor:
    """An opened artifact or bundle: pictures in, answers out. ``edgevit.open_predictor`` makes one; close it, or use it
    in a ``with``.

    columns  of a table of its answers
    draws    whether its answers can be seen as pictures
    """

    def __init__(self, session: Session | BundleSession, names: Sequence[str] | None, top: int) -> None:
        self.session, self.names, self.top = session, names, top
        self.columns, self.draws = classified(top), False
        if not isinstance(session, BundleSession):
            self._reading = Reading.of(session.artifact, names, top)
            self.columns, self.draws = self._reading.columns, self._reading.task.draws

    def predict(
        self, images: Image | Iterable[Image], *, sampling: Sampling | None = None
    ) -> list[Prediction | Failure]:
        """One result for each picture, in order, as ``edgevit.predict`` gives them."""
        found = self.stream(images, sampling=sampling)  # of a film the frames would fill the memory
        return [one if isinstance(one, Failure) or one.frame is None else replace(one, pixels=None) for one in found]

    def stream(
        self, images: Image | Iterable[Image], *, sampling: Sampling | None = None
    ) -> Iterator[Prediction | Failure]:
        """The same, each as soon as it is done: for folders and videos whose answers no list should hold."""
        return self.answers(pictures(images, sampling))

    def answers(
        self, found: Iterable[Picture | Failure], *, at_once: int = AT_ONCE, keep: bool = False
    ) -> Iterator[Prediction | Failure]:
        """One result for each picture, in order; an artifact takes up to ``at_once`` of them together, as far as its
        batch and the size of its outputs allow. ``keep`` leaves the outputs themselves in the results. Unsupported
        where they are of tiles."""
        if isinstance(self.session, BundleSession):  # whose answers say how long each took
            return one_by_one(partial(self._fused, self.session, keep=keep), found)
        if keep and Tiling.fits(self._reading):
            raise Unsupported(
                "this model makes a picture of tiles, which have no outputs of their own",
                hint="-o FOLDER writes the pictures; edgevit.open_session gives the outputs of one tile",
            )
        if Tiling.fits(self._reading) or self._reading.sizes is not None:
            return one_by_one(partial(self._at_its_size, self.session, keep=keep), found)
        fitting = max(1, BYTES_AT_ONCE // self._reading.row_bytes)
        count = min(self.session.artifact.manifest.batch.max, at_once, fitting)
        telling = partial(self._told, self.session, keep=keep)
        return together(partial(looked_at, self._reading), telling, found, count)

    def _told(
        self, session: Session, found: Sequence[Picture], looked: Sequence[Looked], *, keep: bool
    ) -> Iterator[Prediction | None]:
        doubts = session.artifact.manifest.model.weights.doubts()
        for picture, (answer, row) in zip(found, read(session, self._reading, looked), strict=True):
            yield told(Prediction, picture, answer, doubts=doubts, outputs=row if keep else None)

    def _at_its_size(self, session: Session, picture: Picture, *, keep: bool) -> Prediction | None:
        """Of a model that gives pictures, or takes images of a range of sizes: one at a time."""
        answer, row = answer_with_outputs(session, self._reading, picture)
        doubts = session.artifact.manifest.model.weights.doubts()
        return told(Prediction, picture, answer, doubts=doubts, outputs=row if keep else None)

    def _fused(self, session: BundleSession, picture: Picture, *, keep: bool) -> BundlePrediction | None:
        gathered = session.answer(session.rows([picture.pixels()]))
        answer = classes(gathered.logits[0], self.names, self.top)
        row = {"logits": gathered.logits[0]} if keep else None
        return told(BundlePrediction, picture, answer, gathered=gathered, outputs=row)

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
    """An artifact or a bundle, opened to answer about any number of pictures; of classes the ``top`` best
    are named.

    ``runtime``, ``threads``, ``provider`` and ``trust`` are those of ``edgevit.open_session``. ``labels`` are class
    names instead of the model's own. A bundle runs in this process; the parts in ``without`` are left out. Raises
    Unsupported for an artifact that does not take one image, ParityFailed for one that failed its proof, UsageError,
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
    artifact = predictable(model, labels)
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
    """What a model says of pictures, an artifact or a bundle that is opened for them: see ``open_predictor``.

    ``images`` is one picture or an iterable of them: a path (of a picture, a folder, a glob, a video, or ``camera:0``),
    a numpy array (height, width, 3) of uint8 in RGB, or a PIL image. Each gives a ``Prediction``, in order, whose
    ``answer`` is of the model's task: classes, a map of classes, objects, a picture, …; a file that cannot be read
    gives a ``Failure``. ``sampling`` says which frames of videos are looked at. UsageError for what is
    no picture at all, such as an array of another shape.

        for result in edgevit.predict("artifacts/digits", ["photo.jpg", pixels]):
            print(result.image, result.top[0].label, result.top[0].probability)
    """
    opening: dict[str, Any] = {"runtime": runtime, "threads": threads, "top": top, "provider": provider}
    with open_predictor(path, labels=labels, trust=trust, without=without, **opening) as predictor:
        return predictor.predict(images, sampling=sampling)


def predictable(artifact: Artifact, labels: Sequence[str] | None) -> Artifact:
    """The artifact. Unsupported where it does not take one image, ParityFailed where it failed its proof, UsageError
    for ``labels`` of another number than its classes."""
    artifact.check_seal()
    Reading.of(artifact)
    return proved(artifact, labels)


def proved(artifact: Artifact, labels: Sequence[str] | None) -> Artifact:
    """The artifact. ParityFailed where it failed its proof, UsageError for ``labels`` of another number than its
    classes."""
    parity = artifact.manifest.parity
    if parity.status == "failed":
        raise ParityFailed(
            f"{artifact.path} failed its proof ({parity.reason}), so its answers mean nothing", hint="export it again"
        )
    check_labels_of(artifact.manifest, labels)
    return artifact
