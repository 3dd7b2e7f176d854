"""The parts that a node has loaded, and the one queue that they share.

A question is taken in the bus's own thread, which only counts it and hands it over; one worker answers, one question
at a time, because the parts share the cores. Where too many wait it is refused as "busy" at once, so that the asker can
try a replica while there is time, and what could not begin before the asker's deadline is refused as "late".

A part runs in the node's own process: a question then costs a tenth of a millisecond instead of a copy into another
one. An engine that crashes (a segmentation fault in a driver) therefore ends the node. Its supervisor starts it again
(systemd, ``Restart=always``), and the node reloads what it held; what merely raises is an answer that says so.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import FleetError, ParityFailed, Unsupported
from edgevit.fleet.agent.figures import Figures
from edgevit.fleet.agent.release import MODEL, answered
from edgevit.fleet.agent.station import sentence
from edgevit.fleet.bus.logs import Log
from edgevit.fleet.bus.messages import (
    MAX_PAYLOAD,
    MAX_ROWS,
    BadMessage,
    Held,
    InferMeta,
    PartFigures,
    Tensor,
    parse,
    tensor_of,
)
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Bus, Closer, Question
from edgevit.images import ImageError, Preprocess, able_formats, decode, encoded_size
from edgevit.runtimes.base import Session, open_session

BUSY, LATE, LEAVING = "busy", "late", "leaving"
GRACE_S = 0.2  # between a part's token and its queryable: askers that have not seen the token go are still answered
LAST_GRACE_S = 0.05  # the same where the node leaves
DRAIN_S = 10.0  # for the answers of a part that is unloaded
MAX_IMAGE_PIXELS = 16_000_000  # of an encoded image; 48 MB once decoded
_REPLY = b'{"id":"%b","tensor":%b%b,"queue_ms":%.4f,"compute_ms":%.4f}'  # messages.ReplyMeta, without its 20 µs

Key = tuple[str, str]  # revision, part


@dataclass(eq=False, slots=True)
class _Loaded:
    """One part. ``pending`` questions are waiting or in work; the engine's lock guards it."""

    held: Held
    session: Session
    image: TensorSpec
    outputs: tuple[str, ...]
    preprocess: Preprocess | None
    cropped: Preprocess | None  # the same for an image that is resized and cropped already
    figures: Figures
    pending: int = 0
    declared: list[Closer] = field(default_factory=list)  # the queryable, then the token


class Engine:
    """Thread-safe. ``queue`` questions wait at most, of all parts together, and no more than 64 MB of them.

    ``threads`` is for one inference; ``trust`` opens code-carrying formats although no known key signed them.
    """

    def __init__(
        self,
        bus: Bus,
        names: Names,
        node: str,
        incarnation: str,
        *,
        threads: int,
        queue: int = 8,
        trust: bool = False,
        log: Log | None = None,
    ) -> None:
        self._bus, self._names = bus, names
        self._node, self._incarnation = node, incarnation
        self._threads, self._queue, self._trust = threads, queue, trust
        self._log = log
        self._parts: dict[Key, _Loaded] = {}
        self._loading: dict[Key, Held] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)  # told when a part's last question is answered
        self._waiting, self._waiting_bytes = 0, 0
        self._leaving = self._over = False
        self._work: SimpleQueue[tuple[_Loaded, Question, float] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._worker.start()

    def load(self, placement_name: str, revision: str, part: str, folder: Path, memory_bytes: int) -> None:
        """Open the artifact in ``folder`` (hashes checked), compare its golden pair, serve and announce it. Blocks.

        Nothing happens where the part is loaded already. Raises what ``open_session`` raises, ParityFailed for an
        artifact that failed its proof, Unsupported for one that does not take one input, FleetError when leaving.
        """
        key = (revision, part)
        held = Held(revision=revision, part=part, deployment=placement_name, state="loading", memory_bytes=memory_bytes)
        with self._lock:
            if self._leaving:
                raise FleetError(f"{self._node} is leaving")
            if key in self._parts or key in self._loading:
                return
            self._loading[key] = held
        try:
            loaded = self._open(held, folder)
            try:
                self._declare(key, loaded)
            except BaseException:
                self._end(key, loaded)
                raise
        finally:
            with self._lock:
                del self._loading[key]
        self._say("ready", loaded.figures, folder=str(folder), memory_bytes=memory_bytes)

    def unload(self, revision: str, part: str) -> None:
        """Withdraw a part: its token, shortly after its queryable, and its session after the last answer.

        Blocks until then. Nothing happens where it is not loaded.
        """
        with self._lock:
            loaded = self._parts.get((revision, part))
        if loaded is None:
            return
        self._withdraw([loaded], GRACE_S, DRAIN_S)
        self._end((revision, part), loaded)
        self._say("unloaded", loaded.figures)

    def held(self) -> tuple[Held, ...]:
        """The parts that are loaded or loading."""
        with self._lock:
            return (*(loaded.held for loaded in self._parts.values()), *self._loading.values())

    def figures(self) -> tuple[PartFigures, ...]:
        with self._lock:
            found = [(loaded.figures, loaded.pending) for loaded in self._parts.values()]
        return tuple(figures.record(pending) for figures, pending in found)

    def close(self, drain_s: float = 0.5) -> None:
        """Withdraw all parts, answer what waits for at most ``drain_s``, refuse the rest."""
        with self._lock:
            parts = dict(self._parts)
            self._leaving = True
        self._withdraw(list(parts.values()), LAST_GRACE_S, drain_s)
        self._over = True
        self._work.put(None)
        self._worker.join(LAST_GRACE_S)
        for key, loaded in parts.items():
            self._end(key, loaded)

    def _declare(self, key: Key, loaded: _Loaded) -> None:
        """The queryable before the token (docs/explanation/fleet.md, rule 4)."""
        served = self._bus.serve(self._names.infer(*key, self._node), lambda question: self._take(loaded, question))
        loaded.declared.append(served)
        with self._lock:
            if self._leaving:
                raise FleetError(f"{self._node} is leaving")
            self._parts[key] = loaded
        loaded.declared.append(self._bus.announce(self._names.ready(*key, self._node, self._incarnation)))

    def _withdraw(self, loaded: list[_Loaded], grace_s: float, drain_s: float) -> None:
        for one in loaded:
            one.declared[-1].close()
        if loaded:
            time.sleep(grace_s)
        for one in loaded:
            one.declared[0].close()
        with self._idle:
            self._idle.wait_for(lambda: not any(one.pending for one in loaded), drain_s)

    def _end(self, key: Key, loaded: _Loaded) -> None:
        with self._lock:
            self._parts.pop(key, None)
        for closer in reversed(loaded.declared):
            closer.close()
        loaded.session.close()

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open(self, held: Held, folder: Path) -> _Loaded:
        artifact = Artifact.open(folder)
        manifest = artifact.manifest
        if manifest.parity.status == "failed":
            raise ParityFailed(f"{folder} failed its proof ({manifest.parity.reason})", hint="export anew")
        if len(manifest.inputs) != 1 or not manifest.inputs[0].shape:
            raise Unsupported(f"{folder} takes {len(manifest.inputs)} inputs; a node serves models of one")
        by_role = {spec.role: spec.name for spec in reversed(manifest.outputs)}
        features = by_role.get("features") or by_role.get("logits") or manifest.outputs[0].name
        steps = manifest.preprocess if manifest.image_input() else None
        if steps:
            able_formats()  # now, and not while the first image waits
        session = open_session(artifact, threads=self._threads, trust=self._trust)
        try:
            image = manifest.inputs[0]
            _prove(session)
        except BaseException:
            session.close()
            raise
        return _Loaded(
            held=held.model_copy(update={"state": "ready"}),
            session=session,
            image=image,
            outputs=tuple(spec.name for spec in answered(artifact)) if held.part == MODEL else (features,),
            preprocess=steps,
            cropped=steps and steps.after_crop(),
            figures=Figures(held.revision, held.part),
        )

    # --- serving ---------------------------------------------------------------------------------------------------

    def _take(self, loaded: _Loaded, question: Question) -> None:
        arrived = time.perf_counter()
        size = question.size
        with self._lock:
            room = self._waiting < self._queue and self._waiting_bytes + size <= MAX_PAYLOAD
            if room and not self._leaving:
                self._waiting += 1
                self._waiting_bytes += size
                loaded.pending += 1
                self._work.put((loaded, question, arrived))
                return
            reason = LEAVING if self._leaving else BUSY
        loaded.figures.refused("busy")
        question.refuse(reason)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            loaded, question, arrived = item
            with self._lock:
                self._waiting -= 1
                self._waiting_bytes -= question.size
            try:
                if self._over:
                    question.refuse(LEAVING)
                else:
                    self._answer(loaded, question, arrived)
            except Exception as exc:  # the asker is gone, or the session with it: the next one is not
                self._say("unanswered", loaded.figures, reason=sentence(exc))
            with self._idle:
                loaded.pending -= 1
                if not loaded.pending:
                    self._idle.notify_all()

    def _answer(self, loaded: _Loaded, question: Question, arrived: float) -> None:
        begun = time.perf_counter()
        queue_ms = (begun - arrived) * 1e3
        trace = None
        try:
            asked = parse(InferMeta, question.meta)
            trace = asked.trace
            if queue_ms >= asked.left_ms:
                self._refuse(loaded, question, "late", LATE, trace)
                return
            found = _infer(loaded, _rows(loaded, asked, question.payload()))
            tensor, *more = (_tensor(one.dtype.name, one.shape) for one in found)
            data = b"".join(one.tobytes() for one in found)
            compute_ms = (time.perf_counter() - begun) * 1e3
            others = b',"more":[%b]' % b",".join(more) if more else b""
            reply = _REPLY % (asked.id.encode(), tensor, others, queue_ms, compute_ms)
        except Exception as exc:  # an engine may raise anything
            self._refuse(loaded, question, "failed", sentence(exc), trace)
            return
        loaded.figures.answered(queue_ms, compute_ms)
        question.answer(data, reply)
        question.finish()
        if self._log and trace:
            self._log.note("answered", part=loaded.held.part, trace=trace, queue_ms=queue_ms, compute_ms=compute_ms)

    def _refuse(self, loaded: _Loaded, question: Question, kind: str, reason: str, trace: str | None) -> None:
        loaded.figures.refused(kind)
        question.refuse(reason)
        if self._log:
            self._log.refusal("refused", part=loaded.held.part, reason=reason, **({"trace": trace} if trace else {}))

    def _say(self, event: str, figures: Figures, **fields: object) -> None:
        if self._log:
            self._log.info(event, revision=figures.revision[:12], part=figures.part, **fields)


def _prove(session: Session) -> None:
    """The golden inputs must give the golden outputs here; ParityFailed where they do not. It warms the session up."""
    from edgevit.proof.golden import golden_reference  # a node that holds nothing does without
    from edgevit.proof.parity import compare

    manifest, reference = session.artifact.manifest, golden_reference(session.artifact)
    found = compare(session, reference, (min(manifest.batch.max, reference.rows),))
    if found.status == "failed":
        raise ParityFailed(
            f"{manifest.model.name} does not give here what it must: {found.reason}", hint="edgevit verify says more"
        )


def _rows(loaded: _Loaded, asked: InferMeta, data: bytes) -> Array:
    """The model's input, (B, …), from a question's payload. BadMessage or ImageError for what cannot be one."""
    if asked.kind == "tensor":
        if asked.tensor is None:
            raise BadMessage("a tensor of no stated shape")
        rows = tensor_of(asked.tensor, data)
        if not rows.ndim or not 1 <= len(rows) <= MAX_ROWS:
            raise BadMessage(f"a tensor of {len(rows) if rows.ndim else 'no'} rows; 1 to {MAX_ROWS} are taken")
        return rows
    steps = loaded.preprocess
    if steps is None or loaded.cropped is None:
        raise BadMessage(f"{loaded.held.part} takes no image")
    if asked.kind == "image":
        row = steps(_decoded(data, steps.pixel_channels))
    else:
        size = (*steps.size, steps.pixel_channels)
        if asked.tensor is None or asked.tensor.shape != size or asked.tensor.dtype != "uint8":
            raise BadMessage(f"pixels must be uint8 {'×'.join(map(str, size))}")
        row = loaded.cropped(tensor_of(asked.tensor, data))
    return row[np.newaxis].astype(loaded.image.dtype, copy=False)


def _decoded(data: bytes, channels: int) -> Array:
    """Pixels of an encoded image, whose header is looked at before anything is allocated for it."""
    width, height = encoded_size(data)
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(f"an image of {width}×{height} pixels; at most {MAX_IMAGE_PIXELS} are decoded here")
    return decode(data, channels=channels)


def _infer(loaded: _Loaded, rows: Array) -> list[Array]:
    """The part's answer to all rows, in batches that it takes."""
    session, batch, count = loaded.session, loaded.session.artifact.manifest.batch, len(rows)
    if batch.min <= count <= batch.max:
        found = session.infer({loaded.image.name: rows})
    else:
        from edgevit.runtimes.rows import run_rows

        found = run_rows(session, {loaded.image.name: rows}, min(max(count, batch.min), batch.max))
    return [found[name] for name in loaded.outputs]


@lru_cache(maxsize=64)
def _tensor(dtype: str, shape: tuple[int, ...]) -> bytes:
    """messages.Tensor, encoded. ValidationError for what is not sent."""
    return Tensor.model_validate({"dtype": dtype, "shape": shape}).encode()
