"""A bundle or an artifact that the fleet's nodes hold, as one model: an image in, fused logits out.

What is sent is the smallest of what gives the same numbers: the image as it is encoded, the pixels of its crop, or the
model's input. The fusion head runs here.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from typing_extensions import Self

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import Fusion, Missing
from edgevit.bundle.opened import Bundle, content_sha256, opened
from edgevit.errors import FleetError, ParityFailed, UsageError
from edgevit.fleet.agent.release import MODEL, answered
from edgevit.fleet.asking.answers import FleetAnswer, PartTiming
from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.questions import FLOATS, Gathered, Load, PartAnswer, Wanted
from edgevit.fleet.asking.tracing import traced
from edgevit.fleet.bus.messages import MAX_ROWS, tensor_bytes
from edgevit.images import Preprocess, decode, encoded_size
from edgevit.runtimes.base import open_session
from edgevit.sizes import SizeRange

AFTER_S = 0.001  # of the deadline that is kept for fusing, at least; at most a tenth of it
MAX_ENCODED_PIXELS = 16_000_000  # a node decodes no more


@dataclass(frozen=True)
class Takes:
    """What every part takes: the model's input, how an image becomes it (None: it takes no images), and the sizes that
    images may have, where that is a range."""

    image: TensorSpec
    preprocess: Preprocess | None
    sizes: SizeRange | None = None

    def load(self, image: bytes | Array) -> Load:
        """The question for an encoded image, (H, W, 3) uint8 pixels, or rows of the model's input.

        ImageError for a broken image, UsageError for an array that is neither.
        """
        if isinstance(image, np.ndarray) and image.dtype == self.image.dtype:
            spec = self.image
            if self.sizes is not None and image.ndim == len(spec.shape):
                spec = spec.at(spec.taken(image.shape, self.sizes))
            if image.shape[1:] == spec.shape[1:]:
                return self._rows(image)
        if self.preprocess is None:
            raise UsageError(f"this model takes {self.image.name}, a {self.image.dtype} tensor, and no images")
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
                raise UsageError(f"an image must be uint8 height×width×3, got {image.dtype} {_shown(image.shape)}")
            return self._pixels(image)
        height, width = self.preprocess.size
        if len(image) < height * width * 3 and math.prod(encoded_size(image)) <= MAX_ENCODED_PIXELS:
            return Load("image", image)
        return self._pixels(decode(image, channels=self.preprocess.pixel_channels))

    def _pixels(self, image: Array) -> Load:
        if self.preprocess is None:
            raise UsageError("this model takes no images")
        said, data = tensor_bytes(self.preprocess.crop_pixels(image))
        return Load("pixels", bytes(data), said)

    def _rows(self, rows: Array) -> Load:
        first = self.image.shape[0]
        if not 1 <= len(rows) <= MAX_ROWS:
            raise UsageError(f"{len(rows)} rows; a fleet takes 1 to {MAX_ROWS}")
        if first != "batch" and len(rows) % int(first):
            raise UsageError(f"{self.image.name} must have {first} rows, got {len(rows)}")
        said, data = tensor_bytes(rows)
        return Load("tensor", bytes(data), said, rows=len(rows))


class FleetSession:
    """A model on the fleet. Thread-safe: several threads may each have an answer under way.

    Args:
        model: the bundle or artifact that was deployed, or where it lies. Its revision is what is asked for; of a
            bundle the fusion head runs here, and nothing of the parts but their manifests is needed
        client: stays the caller's
        threads: of the fusion head
    """

    def __init__(self, model: Bundle | Artifact | Path | str, client: FleetClient, *, threads: int = 1) -> None:
        """Raises BadArtifact, ParityFailed for a fusion head that failed its proof, Unsupported, MissingDependency."""
        model = opened(model)
        self.path, self.client = model.path, client
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()  # of the fusion head: not every runtime takes two calls at once
        self._fusing_s = 0.0
        self.revision, _ = served_as(model)
        if isinstance(model, Bundle):
            self._open_bundle(model.checked(), threads)
        else:
            self._open_artifact(model)

    def _open_bundle(self, bundle: Bundle, threads: int) -> None:
        self.artifact: Artifact | None = None
        self.outputs: tuple[TensorSpec, ...] = bundle.fusion().manifest.outputs[:1]
        self.labels: tuple[str, ...] | None = bundle.manifest.classes
        self.classes: Mapping[str, tuple[str, ...]] = {one.name: one.classes for one in bundle.manifest.parts}
        self.wanted = tuple(Wanted(one.part, (one.size,)) for one in bundle.manifest.features)
        self.takes = _takes(bundle.parts()[0])
        head = bundle.fusion()
        if head.manifest.parity.status == "failed":
            raise ParityFailed(f"{head.path} failed its proof ({head.manifest.parity.reason})", hint="split anew")
        self.fusion: Fusion | None = Fusion(self._stack.enter_context(open_session(head, threads=threads)))

    def _open_artifact(self, artifact: Artifact) -> None:
        self.artifact, self.outputs = artifact, answered(artifact)
        self.labels = artifact.manifest.labels
        self.classes = {MODEL: self.labels or ()}
        self.wanted = _wanted(self.outputs)
        self.takes = _takes(artifact)
        self.fusion = None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(one.part for one in self.wanted)

    @property
    def count(self) -> int:
        """Classes, or values, of the first output's row."""
        return len(self.labels) if self.labels else self.wanted[0].shape[-1]

    @traced
    def answer(
        self, image: bytes | Array, deadline_s: float, *, require_all: bool = False, trace: str | None = None
    ) -> FleetAnswer:
        """Ask all parts and fuse those that answer before ``deadline_s``, which is when this returns at the latest.

        ``image`` is an encoded image, (H, W, 3) uint8 pixels, or rows of the model's input. ``trace`` (32 hex digits;
        random unless given) is logged by every node. FleetError when no part answers, or, with ``require_all``, not
        every part; ImageError for a broken image, UsageError for an array that the model does not take.
        """
        started, trace = time.perf_counter(), trace or secrets.token_hex(16)
        load = self.takes.load(image)
        left_s = deadline_s - (time.perf_counter() - started)
        kept_s = min(max(AFTER_S, 2 * self._fusing_s), deadline_s / 10)
        gathered = self.client.scatter(self.revision, load, self._wanted_for(load), left_s - kept_s, trace=trace)
        missing = tuple(
            Missing(part, self.classes[part], gathered.missing[part]) for part in self.parts if part in gathered.missing
        )
        if len(missing) == len(self.wanted) or (require_all and missing):
            if load.kind == "image" and isinstance(image, bytes):
                decode(image)  # a broken one is why
            self._refuse(missing, deadline_s)
        begun = time.perf_counter()
        logits = self._fused(gathered, load.rows)
        ended = time.perf_counter()
        self._fusing_s += 0.1 * (ended - begun - self._fusing_s)
        found = gathered.found
        return FleetAnswer(
            logits,
            len(self.wanted),
            missing,
            (ended - started) * 1e3,
            {part: one.ms for part, one in found.items()} | {"fusion": (ended - begun) * 1e3},
            tuple(_timing(found[part]) for part in self.parts if part in found),
            trace,
            found[MODEL].more if self.fusion is None else (),
        )

    def _wanted_for(self, load: Load) -> tuple[Wanted, ...]:
        """What answers a question: of images of another size than the model's own, outputs of another size too."""
        spec, sizes = self.takes.image, self.takes.sizes
        if sizes is None or load.kind != "tensor" or load.tensor is None:
            return self.wanted
        size = spec.taken(load.tensor.shape, sizes)
        return _wanted(tuple(one.at(size) for one in self.outputs))

    def _fused(self, gathered: Gathered, rows: int) -> Array:
        if self.fusion is None:
            return gathered.found[MODEL].array
        features = [found.array if (found := gathered.found.get(part)) else None for part in self.parts]
        with self._lock:
            return self.fusion.fuse(features, rows)

    def _refuse(self, missing: tuple[Missing, ...], deadline_s: float) -> None:
        none = len(missing) == len(self.wanted)
        which = "no sub-model" if none else "not every sub-model"
        first = missing[0]
        raise FleetError(
            f"{which} of {self.path} answered within {deadline_s * 1e3:.0f} ms: {first.part}: {first.reason}",
            hint="edgevit fleet status says who is there; edgevit deploy places what is missing",
        )

    def close(self) -> None:
        """Close the fusion head."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def served_as(model: Bundle | Artifact) -> tuple[str, tuple[str, ...]]:
    """The revision that it is deployed under, and the names of a bundle's parts, or of the one that an artifact is."""
    return (model.sha256, model.names) if isinstance(model, Bundle) else (content_sha256(model), (MODEL,))


def _takes(artifact: Artifact) -> Takes:
    manifest = artifact.manifest
    image = manifest.image_input()
    return Takes(image or manifest.inputs[0], manifest.preprocess if image else None, manifest.image_sizes)


def _wanted(outputs: tuple[TensorSpec, ...]) -> tuple[Wanted, ...]:
    """Of an artifact that is one part."""
    first, *more = ((spec.rows(1)[1:], FLOATS if spec.dtype.startswith("float") else (spec.dtype,)) for spec in outputs)
    return (Wanted(MODEL, *first, tuple(more)),)


def _timing(one: PartAnswer) -> PartTiming:
    return PartTiming(one.part, one.node, one.queue_ms, one.compute_ms, one.network_ms, one.hedged)


def _shown(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
