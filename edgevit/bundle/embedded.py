"""A whole bundle in one process: every sub-model in turn, then the fusion head. The fleet's embedded default.

A sub-model that is left out, cannot be opened, raises, or answers with NaN is absent: its features are zeros, its
column of ``present`` is 0, and the answer says that it is degraded and what is missing. What was altered is an error,
not an absence. Numpy only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from edgevit import registry
from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.bundle.opened import PRESENT, Bundle, features_output
from edgevit.errors import BadArtifact, EdgeVitError, ParityFailed, Unsupported, UsageError, one_line
from edgevit.images import Preprocess
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import run_rows

LEFT_OUT = "left out"


@dataclass(frozen=True)
class Missing:
    """A sub-model that gave nothing, the classes it is the expert in, and why it gave nothing."""

    part: str
    classes: tuple[str, ...]
    reason: str

    @property
    def left_out(self) -> bool:
        """Whether it was asked to be left out."""
        return self.reason == LEFT_OUT

    def record(self) -> dict[str, Any]:
        return {"part": self.part, "classes": list(self.classes), "reason": self.reason}


class Gathered:
    """What an answer says of the parts it was made from: ``parts`` sub-models, without those that are ``missing``."""

    parts: int
    missing: tuple[Missing, ...]

    @property
    def answered(self) -> int:
        return self.parts - len(self.missing)

    @property
    def degraded(self) -> bool:
        return bool(self.missing)

    def sentence(self) -> str:
        """``5/5 sub-models``, or ``degraded 4/5 (missing: part-2; classes 3, 7)``."""
        if not self.missing:
            return f"{self.parts}/{self.parts} sub-models"
        parts = ", ".join(one.part for one in self.missing)
        classes = ", ".join(label for one in self.missing for label in one.classes)
        return f"degraded {self.answered}/{self.parts} (missing: {parts}; classes {classes})"


@dataclass(frozen=True)
class Fused(Gathered):
    """Fused logits (B, classes), and what they were made from.

    parts    sub-models of the bundle
    missing  those that gave nothing, in the bundle's order
    ms       wall time of everything, and of each sub-model and of "fusion" alone
    """

    logits: Array
    parts: int
    missing: tuple[Missing, ...]
    latency_ms: float
    ms: Mapping[str, float] = field(default_factory=dict)


class Fusion:
    """The fusion head over whatever features arrived, from this process or from a network."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.features: tuple[TensorSpec, ...] = tuple(spec for spec in session.inputs if spec.name != PRESENT)

    def fuse(self, features: Sequence[Array | None], rows: int) -> Array:
        """(rows, classes) logits of one (rows, D_i) array a part, in order; None for a part that is absent.

        UsageError when a shape is not the head's, or nothing is present.
        """
        if len(features) != len(self.features):
            raise UsageError(f"the fusion head takes features of {len(self.features)} parts, got {len(features)}")
        here = [array is not None for array in features]
        if not any(here):
            raise UsageError("no sub-model answered, so there is nothing to fuse")
        feeds = {PRESENT: np.tile(np.asarray(here, np.float32), (rows, 1))}
        for spec, array in zip(self.features, features, strict=True):
            feeds[spec.name] = _fed(spec, array, rows)
        logits = self.session.artifact.manifest.logits_output()
        if logits is None:
            raise BadArtifact(f"{self.session.artifact.path} has no logits", hint="split anew")
        found: Array = _run(self.session, feeds)[logits.name]
        return found


class BundleSession:
    """An opened bundle: ``infer({"image": array}) -> {"logits": array}``, as a session of an artifact does.

    Args:
        bundle: path, or an opened bundle
        runtime: opens every member; default: each target's preferred one. One that cannot open the default target
            takes the first target that it can
        without: names of parts that are left out, not even looked at
        require_all: a part that gives nothing is an error
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        runtime: str | None = None,
        *,
        threads: int | None = None,
        provider: str | None = None,
        trust: bool = False,
        without: Collection[str] = (),
        require_all: bool = False,
    ) -> None:
        """Raises BadArtifact for a member that was altered, ParityFailed for one that failed its proof, UsageError when
        nothing is left, and what opening the last part or the fusion head raises when none can be opened."""
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, without=without)
        self.target = target_for(self.bundle, runtime)
        self.require_all = require_all
        self._stack = contextlib.ExitStack()
        self._opening: dict[str, Any] = {"threads": threads, "provider": provider, "trust": trust}
        self._absent: dict[int, str] = {self.bundle.index(name): LEFT_OUT for name in without}
        if len(self._absent) == len(self.bundle.names):
            raise UsageError("every sub-model is left out", hint="leave one in")
        self._sessions: dict[int, Session] = {}
        with contextlib.ExitStack() as stack:
            self._open_parts(stack, runtime)
            head = stack.enter_context(self._open(self.bundle.fusion(self.target), runtime))
            self.fusion = Fusion(head)
            self._stack = stack.pop_all()
        self.image, self.preprocess = self._takes()

    def _open_parts(self, stack: contextlib.ExitStack, runtime: str | None) -> None:
        refused: Exception | None = None
        for index, info in enumerate(self.bundle.manifest.parts):
            if index in self._absent:
                continue
            artifact = self.bundle.member(info.artifacts[self.target])
            artifact.check_files()
            try:
                self._sessions[index] = stack.enter_context(self._open(artifact, runtime))
            except (ParityFailed, UsageError):
                raise
            except Exception as exc:  # an engine may raise anything while it opens a file
                if self.require_all:
                    raise
                refused = exc
                self._absent[index] = one_line(exc)
        if refused is not None and not self._sessions:
            raise refused

    def _open(self, artifact: Artifact, runtime: str | None) -> Session:
        parity = artifact.manifest.parity
        if parity.status == "failed":
            raise ParityFailed(
                f"{artifact.path} failed its proof ({parity.reason}), so its answers mean nothing", hint="split anew"
            )
        return open_session(artifact, runtime, **self._opening)

    def _takes(self) -> tuple[TensorSpec, Preprocess]:
        manifest = next(iter(self._sessions.values())).artifact.manifest
        spec, preprocess = manifest.image_input(), manifest.preprocess
        if spec is None or preprocess is None:
            raise BadArtifact(f"the sub-models of {self.bundle.path} take no image", hint="split anew")
        return spec, preprocess

    @property
    def names(self) -> tuple[str, ...]:
        return self.bundle.names

    @property
    def opened(self) -> tuple[Session, ...]:
        """The sessions of the sub-models that could be opened, and of the fusion head."""
        return (*self._sessions.values(), self.fusion.session)

    def rows(self, pixels: list[Array]) -> dict[str, Array]:
        """What ``infer`` takes, from (H, W, 3) uint8 images."""
        return {self.image.name: self.preprocess.batch(pixels).astype(self.image.dtype, copy=False)}

    def infer(self, feeds: Mapping[str, Array], present: Sequence[bool] | Array | None = None) -> dict[str, Array]:
        """``logits`` (B, classes) and the ``present`` mask (N,) that they were made with; ``answer`` says more."""
        answer = self.answer(feeds, present)
        absent = {one.part for one in answer.missing}
        return {"logits": answer.logits, PRESENT: np.asarray([name not in absent for name in self.names])}

    def answer(self, feeds: Mapping[str, Array], present: Sequence[bool] | Array | None = None) -> Fused:
        """Run the sub-models of ``present`` (N booleans; all if None) on any number of rows, and fuse.

        UsageError for feeds that are not one image input, or a mask of another length; EdgeVitError when no sub-model
        answers, or, with ``require_all``, when one does not.
        """
        started = time.perf_counter()
        image = self._checked(feeds)
        absent = dict(self._absent)
        for index, wanted in enumerate(self._mask(present)):
            if not wanted:
                absent[index] = LEFT_OUT
        features, ms = self._ran(image, absent)
        missing = self._missing(absent)
        begun = time.perf_counter()
        logits = self.fusion.fuse(features, len(image))
        ended = time.perf_counter()
        ms["fusion"] = (ended - begun) * 1e3
        return Fused(logits, len(self.names), missing, (ended - started) * 1e3, ms)

    def _ran(self, image: Array, absent: dict[int, str]) -> tuple[list[Array | None], dict[str, float]]:
        """Features of each part in order, and ms by name; a part that fails is missing, and added to ``absent``."""
        features: list[Array | None] = [None] * len(self.names)
        ms: dict[str, float] = {}
        for index, session in self._sessions.items():
            if index in absent:
                continue
            begun = time.perf_counter()
            try:
                features[index] = _features(session, image)
            except Exception as exc:  # whatever a runtime raises; the caller's own mistakes were refused before
                absent[index] = one_line(exc)
            ms[self.names[index]] = (time.perf_counter() - begun) * 1e3
        return features, ms

    def _missing(self, absent: Mapping[int, str]) -> tuple[Missing, ...]:
        parts = self.bundle.manifest.parts
        missing = tuple(Missing(parts[i].name, parts[i].classes, absent[i]) for i in sorted(absent))
        failed = [one for one in missing if not one.left_out]
        if len(missing) == len(parts) or (self.require_all and failed):
            first = next(iter(failed), missing[0])
            which = "no sub-model answered" if len(missing) == len(parts) else "not every sub-model answered"
            raise EdgeVitError(f"{which}: {first.part}: {first.reason}", hint="edgevit verify says which are sound")
        return missing

    def _mask(self, present: Sequence[bool] | Array | None) -> list[bool]:
        if present is None:
            return [True] * len(self.names)
        mask = np.asarray(present)
        if mask.shape != (len(self.names),):
            raise UsageError(f"present must hold {len(self.names)} booleans, one a part")
        return [bool(value) for value in mask]

    def _checked(self, feeds: Mapping[str, Array]) -> Array:
        name, dtype, size = self.image.name, self.image.dtype, self.image.shape[1:]
        if set(feeds) != {name}:
            raise UsageError(f"this bundle takes {name}; got {', '.join(sorted(feeds)) or 'nothing'}")
        image = feeds[name]
        if not isinstance(image, np.ndarray) or image.dtype != np.dtype(dtype) or image.shape[1:] != size:
            shape = "×".join(map(str, ("batch", *size)))
            got = f"{image.dtype} {'×'.join(map(str, image.shape))}" if isinstance(image, np.ndarray) else type(image)
            raise UsageError(f"{name} must be {dtype} {shape}, got {got}")
        if not len(image):
            raise UsageError(f"{name} has no rows")
        return image

    def close(self) -> None:
        """Close all members."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def target_for(bundle: Bundle, runtime: str | None) -> str:
    """The target that ``runtime`` opens: the bundle's default one where it can, or no runtime is named."""
    if runtime is None:
        return bundle.manifest.default_target
    row = registry.row("runtime", runtime)
    for target in bundle.targets:
        if "*" in row.formats or bundle.fusion(target).manifest.target in row.formats:
            return target
    raise Unsupported(f"{runtime} opens none of this bundle's targets ({', '.join(bundle.targets)})")


def _fed(spec: TensorSpec, array: Array | None, rows: int) -> Array:
    """(rows, D) features of one part as the head takes them, zeros where it is absent."""
    shape = (rows, int(spec.shape[-1]))
    if array is None:
        return np.zeros(shape, spec.dtype)
    if array.shape != shape:
        raise UsageError(f"{spec.name} must be {shape[0]}×{shape[1]}, got {'×'.join(map(str, array.shape))}")
    return array.astype(spec.dtype)


def _features(session: Session, image: Array) -> Array:
    """(B, D) features of one sub-model. EdgeVitError when they are no numbers."""
    spec, name = features_output(session.artifact), session.inputs[0].name
    if spec is None:
        raise BadArtifact(f"{session.artifact.path} has no output called features", hint="split anew")
    found: Array = _run(session, {name: image})[spec.name]
    if found.shape != (len(image), *spec.shape[1:]):
        raise EdgeVitError(f"its features have shape {found.shape}")
    if not np.isfinite(found).all():
        raise EdgeVitError("its features hold NaN or infinity")
    return found


def _run(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Any number of rows, in batches that the artifact takes."""
    batch = session.artifact.manifest.batch
    rows = len(next(iter(feeds.values())))
    if batch.min <= rows <= batch.max:
        return session.infer({name: np.ascontiguousarray(array) for name, array in feeds.items()})
    return run_rows(session, feeds, min(max(rows, batch.min), batch.max))
