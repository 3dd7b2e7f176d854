"""What a gateway serves: a fleet, a bundle in this process, or a single artifact, behind one protocol."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from edgevit.artifact.manifest import Array, BatchRange, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import BundleSession, Gathered, Missing
from edgevit.bundle.opened import Bundle, content_sha256, opened
from edgevit.errors import BadArtifact, EdgeVitError, ParityFailed, Unsupported
from edgevit.fleet.asking.answers import FleetAnswer, PartTiming
from edgevit.fleet.asking.looking import Looking
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.asking.where import Reached
from edgevit.fleet.bus.messages import MAX_ROWS
from edgevit.images import LARGE_PIXELS, ImageError, decode, encoded_size, with_channels
from edgevit.prediction.answering import classes
from edgevit.prediction.picture import Picture
from edgevit.prediction.tiling import Tiling, answer_of
from edgevit.proof.golden import require_proof
from edgevit.runtimes.base import Session, open_session
from edgevit.sizes import SizeRange
from edgevit.tasks.base import Answer
from edgevit.tasks.reading import Reading

HERE = "this process"
TOP = 5  # classes that are named
TILES = 256  # of one image, where a model takes it in tiles: others wait meanwhile
LARGE_WAITING = 4  # pictures that wait for their turn


class Busy(EdgeVitError):
    """What was asked for could be answered, but not now."""


@dataclass(frozen=True)
class Said(Gathered):
    """One answer: outputs by name, and what it was made from."""

    outputs: Mapping[str, Array]
    parts: int
    missing: tuple[Missing, ...]
    latency_ms: float
    timings: tuple[PartTiming, ...] = field(default=())
    trace: str = ""  # of a fleet's answer: what the nodes' logs name it by


@dataclass(frozen=True)
class Looked:
    """What was said of an image.

    answer  by the model's task; None where the outputs hold NaN or infinity
    pixels  of the image, (H, W, 3) uint8; None where it went to the nodes as it came
    """

    said: Said
    answer: Answer | None
    pixels: Array | None = None


class Answering(Protocol):
    """Something that can be asked. ``infer`` and ``look`` are called from several threads; they raise UsageError or
    ImageError for what the asker got wrong, and another EdgeVitError when nothing can be answered now. ``trace`` is the
    asker's trace id, which a fleet's nodes log."""

    name: str
    version: str
    platform: str
    where: Literal["fleet", "embedded"]
    labels: tuple[str, ...] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows: BatchRange
    sizes: SizeRange | None  # of images, where they may have several
    parts: Mapping[str, tuple[str, ...]]  # sub-models and their classes; empty for a single artifact
    takes_images: bool
    task: str
    draws: bool  # whether an answer can be seen as a picture

    def ready(self) -> bool: ...

    def infer(self, feeds: Mapping[str, Array], deadline_s: float, trace: str | None = None) -> Said: ...

    def look(self, image: bytes, deadline_s: float, trace: str | None = None) -> Looked:
        """At one encoded image."""
        ...

    def close(self) -> None: ...


class Decoding:
    """Pictures from strangers, decoded in this process: large ones one at a time, whoever waits in vain is ``Busy``."""

    def __init__(self) -> None:
        self._turn, self._waiting = threading.Lock(), threading.Semaphore(LARGE_WAITING)

    def __call__(self, image: bytes, deadline_s: float, channels: int = 3) -> Array:
        """(H, W, channels) uint8. ImageError as ``decode``."""
        if math.prod(encoded_size(image)) <= LARGE_PIXELS:
            return decode(image, channels=channels)
        if not self._waiting.acquire(blocking=False):
            raise Busy("too many large pictures wait to be decoded", hint="send smaller ones")
        try:
            if not self._turn.acquire(timeout=deadline_s):
                raise Busy("other large pictures are being decoded", hint="send a smaller one")
            try:
                return decode(image, channels=channels)
            finally:
                self._turn.release()
        finally:
            self._waiting.release()


class EmbeddedBundle:
    """A bundle in this process. One question at a time: its sessions share the same cores."""

    where: Literal["fleet", "embedded"] = "embedded"
    platform = "edgevit_bundle"
    takes_images = True
    task, draws = "classify", False
    sizes: SizeRange | None = None

    def __init__(self, session: BundleSession, name: str) -> None:
        self.session, self.name = session, name
        bundle = session.bundle
        self.version = bundle.sha256[:12]
        self.labels: tuple[str, ...] | None = bundle.manifest.classes
        self.inputs: tuple[TensorSpec, ...] = (
            session.image.model_copy(update={"shape": ("batch", *session.image.shape[1:])}),
        )
        self.outputs: tuple[TensorSpec, ...] = (_logits(len(bundle.manifest.classes)),)
        self.rows = BatchRange(min=1, max=MAX_ROWS)
        self.parts: Mapping[str, tuple[str, ...]] = {part.name: part.classes for part in bundle.manifest.parts}
        self._turn, self._decoded = threading.Lock(), Decoding()

    def ready(self) -> bool:
        return True

    def infer(self, feeds: Mapping[str, Array], deadline_s: float, trace: str | None = None) -> Said:
        asked = time.perf_counter()
        with self._turn:
            waited = (time.perf_counter() - asked) * 1e3
            answer = self.session.answer(feeds)
        timings = tuple(
            PartTiming(part, HERE, waited, took, 0.0) for part, took in answer.ms.items() if part in self.parts
        )
        outputs = {"logits": answer.logits}
        return Said(outputs, answer.parts, answer.missing, waited + answer.latency_ms, timings)

    def look(self, image: bytes, deadline_s: float, trace: str | None = None) -> Looked:
        said = self.infer(self.session.rows([self._decoded(image, deadline_s)]), deadline_s)
        return Looked(said, classes(said.outputs["logits"][0], self.labels, TOP))

    def close(self) -> None:
        self.session.close()


class EmbeddedArtifact:
    """A single artifact in this process, one question at a time."""

    where: Literal["fleet", "embedded"] = "embedded"

    def __init__(self, artifact: Artifact, name: str, **opening: Any) -> None:
        manifest = artifact.manifest
        self.session, self.name = open_session(artifact, **opening), name
        self.version = content_sha256(artifact.path)[:12]
        self.platform = f"edgevit_{manifest.target}"
        self.labels = manifest.labels
        self.inputs, self.outputs, self.rows = manifest.inputs, manifest.outputs, manifest.batch
        self.sizes = manifest.image_sizes
        self.parts: Mapping[str, tuple[str, ...]] = {}
        self._reading = _reading(artifact)
        self.takes_images, self.task = self._reading is not None, manifest.model.task
        self.draws = self._reading is not None and self._reading.task.draws
        self._turn, self._decoded = threading.Lock(), Decoding()

    def ready(self) -> bool:
        return True

    def infer(self, feeds: Mapping[str, Array], deadline_s: float, trace: str | None = None) -> Said:
        asked = time.perf_counter()
        with self._turn:
            began = time.perf_counter()
            outputs = self.session.infer(feeds)
        return self._said(outputs, asked, began)

    def look(self, image: bytes, deadline_s: float, trace: str | None = None) -> Looked:
        reading = self._reading
        if reading is None:
            raise Unsupported(f"{self.name} takes no images", hint="send its tensors to infer")
        _check_bounds(reading, image)
        pixels = self._decoded(image, deadline_s, reading.steps.pixel_channels)
        asked = time.perf_counter()
        with self._turn:
            began = time.perf_counter()
            answer = answer_of(self.session, reading, Picture("the image", pixels))
        return Looked(self._said({}, asked, began), answer, with_channels(pixels, 3))

    def _said(self, outputs: Mapping[str, Array], asked: float, began: float) -> Said:
        ended = time.perf_counter()
        timing = PartTiming("model", HERE, (began - asked) * 1e3, (ended - began) * 1e3, 0.0)
        return Said(outputs, 1, (), (ended - asked) * 1e3, (timing,))

    def close(self) -> None:
        self.session.close()


def embedded(model: Bundle | Artifact | Path | str, *, name: str | None = None, **opening: Any) -> Answering:
    """A bundle or an artifact, or the one at a path, in this process; ``opening`` as ``open_session`` takes it. Raises
    what opening it raises, ParityFailed for an artifact that failed its proof, or fails its golden pair here."""
    artifact = opened(model)
    path = artifact.path
    called = name or path.resolve().name
    if isinstance(artifact, Bundle):
        together = BundleSession(artifact.checked(), **opening)
        _prove(together, together.opened)
        return EmbeddedBundle(together, called)
    if artifact.manifest.parity.status == "failed":
        raise ParityFailed(f"{path} failed its proof, so its answers mean nothing", hint="export it again")
    if not artifact.manifest.inputs:
        raise BadArtifact(f"{path} has no inputs", hint="export it again")
    alone = EmbeddedArtifact(artifact, called, **opening)
    _prove(alone, [alone.session])
    return alone


def _prove(serving: BundleSession | EmbeddedArtifact, sessions: Iterable[Session]) -> None:
    """Close what does not compute its model, and raise why."""
    try:
        for session in sessions:
            require_proof(session)
    except BaseException:
        serving.close()
        raise


class FleetModel:
    """What a fleet's nodes hold. Several questions may be under way; each has its answer by the deadline."""

    where: Literal["fleet", "embedded"] = "fleet"
    platform = "edgevit_fleet"

    def __init__(self, reached: Reached, name: str) -> None:
        self.reached, self.name = reached, name
        session = reached.session
        spec = session.takes.image
        free = spec.shape[:1] in (("batch",), (1,))
        shape = ("batch", *spec.shape[1:]) if free else spec.shape
        self.version = session.revision[:12]
        self.labels = session.labels
        self.inputs: tuple[TensorSpec, ...] = (spec.model_copy(update={"shape": shape}),)
        self.rows, self.sizes = BatchRange(min=1, max=MAX_ROWS), session.takes.sizes
        self.parts: Mapping[str, tuple[str, ...]] = session.classes
        self.takes_images, self._decoded = session.takes.preprocess is not None, Decoding()
        self._looking = _looking(session)
        artifact, reading = session.artifact, self._looking.reading if self._looking else None
        self.task = artifact.manifest.model.task if artifact else "classify"
        self.draws = reading is not None and reading.task.draws
        self.outputs: tuple[TensorSpec, ...] = tuple(
            spec.model_copy(update={"shape": ("batch", *spec.shape[1:])}) for spec in session.outputs
        )
        if artifact is None:
            self.outputs = (_logits(session.count),)

    def ready(self) -> bool:
        return self.reached.client.wait_any(self.reached.session.revision, 0.0)

    def infer(self, feeds: Mapping[str, Array], deadline_s: float, trace: str | None = None) -> Said:
        return self._said(self.reached.session.answer(feeds[self.inputs[0].name], deadline_s, trace=trace))

    def look(self, image: bytes, deadline_s: float, trace: str | None = None) -> Looked:
        looking = self._looking
        if looking is None:
            raise Unsupported(f"{self.name} takes no images", hint="send its tensors to infer")
        if looking.reading is not None:
            _check_bounds(looking.reading, image)
        seen: list[Array] = []

        def pixels() -> Array:
            channels = looking.reading.steps.pixel_channels if looking.reading else 3
            seen.append(self._decoded(image, deadline_s, channels))
            return seen[-1]

        answer, gathered = looking.look(image, pixels, deadline_s, trace)
        return Looked(self._said(gathered), answer, with_channels(seen[-1], 3) if seen else None)

    def _said(self, answer: FleetAnswer) -> Said:
        return Said(
            answer.by_name(self.outputs),
            answer.parts,
            answer.missing,
            answer.latency_ms,
            answer.timings,
            answer.trace,
        )

    def close(self) -> None:
        self.reached.close()


def _logits(classes: int) -> TensorSpec:
    return TensorSpec(name="logits", dtype="float32", shape=("batch", classes), role="logits")


def _reading(artifact: Artifact) -> Reading | None:
    """How an artifact is asked about an image; None where it takes none."""
    try:
        return Reading.of(artifact, top=TOP)
    except Unsupported:
        return None


def _looking(session: FleetSession) -> Looking | None:
    """How a fleet is asked about images; None where its model takes none."""
    try:
        return Looking.of(session, top=TOP)
    except Unsupported:
        return None


def _check_bounds(reading: Reading, image: bytes) -> None:
    """ImageError for an encoded image whose answer would have too many pixels, or keep others waiting for long."""
    if not reading.task.draws:
        return
    most = min(LARGE_PIXELS, TILES * math.prod(reading.steps.size)) if Tiling.fits(reading) else LARGE_PIXELS
    if math.prod(encoded_size(image)) > most:
        raise ImageError(f"an image of more than {most:,} pixels", hint="send a smaller one")
