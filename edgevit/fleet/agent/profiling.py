"""A node that measures artifacts for an operator: the node's side of ``order/<node>/profile`` (remote_profile.py).

It pulls what the order names, checks every hash, and measures in fresh processes as ``edgevit profile`` does. The
operator asks again with the same order to hear how far it is: as long as it asks, the node works; when it has not been
heard for a while, the node stops.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from edgevit import errors
from edgevit.errors import BadArtifact, EdgeVitError, FleetError, one_line
from edgevit.fleet.agent.release import Release
from edgevit.fleet.agent.shipping import Puller
from edgevit.fleet.agent.store import Store, lay_out
from edgevit.fleet.bus.messages import MAX_RECORD, Message, Name, Sha256, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Bus, Question, take_or_refuse
from edgevit.fleet.trust.signatures import SignedOrder

if TYPE_CHECKING:
    from edgevit.fleet.bus.logs import Log

SILENT_S = 20.0  # without a word of the operator: nobody wants the result
PATIENCE_S = 10.0  # for a byte of the artifact
MAX_RESULT = 64 << 20  # bytes of a result: some million samples
MAX_IMAGES_FILE = 80 << 20  # more than profiles.crops.write makes
_WAITING = 16

Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Option = Annotated[str, Field(max_length=128)]
Said = Annotated[str, Field(max_length=4096)]
Positive = Annotated[float, Field(gt=0, le=1e6)]


class Images(Message):
    """The blob of ``profiles.crops.write``."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=MAX_IMAGES_FILE)]


class ProfileOrder(SignedOrder):
    """The options of ``edgevit profile``. Asking again with it tells how far it is.

    artifact, data  what the operator calls them, and so will the result
    trust           the operator's own signature of this order, which holds the hash of every file, counts as that of
                    a known builder
    """

    purpose: ClassVar[str] = "profile"
    id: Identifier
    release: Sha256
    artifact: Said = "the artifact"
    data: Said | None = None
    images: Images | None = None
    runtime: Option | None = None
    provider: Option | None = None
    tier: Option = "quick"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    batch: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    scenario: Option = "single-stream"
    qps: Positive | None = None
    bound_ms: Positive | None = None
    fps: Positive | None = None
    minutes: Positive | None = None
    layers: bool = False
    options: Annotated[dict[Option, Option], Field(max_length=32)] = Field(default_factory=dict)
    trust: bool = False
    image_size: Annotated[str, Field(pattern=r"^[0-9]{1,5}(x[0-9]{1,5})?$")] | None = None


class Failure(Message):
    """An error of the node's. ``kind`` is one of ``edgevit.errors``, with its exit code."""

    kind: Literal[
        "EdgeVitError", "UsageError", "MissingDependency", "Unsupported", "BadArtifact", "ParityFailed", "FleetError",
        "WorkerFailed",
    ]  # fmt: skip
    message: Said
    hint: Said | None = None

    @classmethod
    def of(cls, exc: Exception) -> Failure:
        kind = next((one.__name__ for one in type(exc).__mro__ if one.__name__ in _KINDS), "EdgeVitError")
        hint = getattr(exc, "hint", None)
        return cls.model_validate({"kind": kind, "message": one_line(exc)[:4096], "hint": hint and str(hint)[:4096]})

    def error(self, node: str) -> EdgeVitError:
        kind: type[EdgeVitError] = getattr(errors, self.kind)
        return kind(f"{node}: {self.message}", hint=self.hint)


_KINDS = frozenset(get_args(Failure.model_fields["kind"].annotation))


class JobState(Message):
    """How far a measurement is; also published to ``job/<node>/<id>``. ``result`` is a blob that the node holds."""

    node: Name
    id: Identifier
    state: Literal["working", "done", "failed"] = "working"
    stage: Annotated[str, Field(max_length=200)] = "waiting"
    share: float | None = None
    result: Sha256 | None = None
    bytes: Annotated[int, Field(ge=0, le=MAX_RESULT)] = 0
    failure: Failure | None = None


def serve_profiles(
    bus: Bus,
    names: Names,
    node: str,
    *,
    store: Store,
    trusted: Callable[[], Mapping[str, str]],
    log: Log | None = None,
) -> Profiling:
    """Take orders to profile, one at a time. ``store`` is the one whose blobs the node serves (``holdings.store``);
    ``trusted`` tells whose orders are taken. Close it before the bus."""
    return Profiling(bus, names, node, store, trusted, log)


class Profiling:
    """A node that measures. The bus's threads only hand over; one thread answers, another one measures."""

    def __init__(
        self,
        bus: Bus,
        names: Names,
        node: str,
        store: Store,
        trusted: Callable[[], Mapping[str, str]],
        log: Log | None,
    ) -> None:
        self._bus, self._names, self._node = bus, names, node
        self._store, self._trusted, self._log = store, trusted, log
        self._asked: queue.Queue[Question | None] = queue.Queue(_WAITING)
        self._state: JobState | None = None
        self._heard = 0.0
        self._closing = threading.Event()
        self._measuring: threading.Thread | None = None
        self._answering = threading.Thread(target=self._answer_all, name="profiling", daemon=True)
        self._answering.start()
        self._served = bus.serve(names.order(node, "profile"), self._take)

    def close(self) -> None:
        """Take no more orders, and stop measuring."""
        self._closing.set()
        self._served.close()
        with contextlib.suppress(queue.Full):
            self._asked.put_nowait(None)
        self._answering.join(1)
        if self._measuring:
            self._measuring.join(1)

    def _take(self, question: Question) -> None:
        take_or_refuse(self._asked, question)

    def _answer_all(self) -> None:
        while (question := self._asked.get()) is not None:
            try:
                question.answer(self._heard_of(question).encode())
                question.finish()
            except EdgeVitError as exc:
                question.refuse(str(exc))

    def _heard_of(self, question: Question) -> JobState:
        """The state of the order asked with, which begins now if nothing else is measured."""
        order = parse(ProfileOrder, question.payload() if question.size <= MAX_RECORD else b"", MAX_RECORD)
        order.check(self._trusted())
        if order.node != self._node:
            raise FleetError(f"the order is for {order.node}")
        if self._state is not None and self._state.id == order.id:
            self._heard = time.monotonic()
            return self._state
        if self._state is not None and self._state.state == "working":
            raise FleetError("another measurement is going on here")
        self._heard = time.monotonic()
        self._state = JobState(node=self._node, id=order.id)
        self._measuring = threading.Thread(target=self._work, args=(order,), name="measuring", daemon=True)
        self._measuring.start()
        return self._state

    def _work(self, order: ProfileOrder) -> None:
        began = time.monotonic()
        try:
            result = self._measure(order)
            sha256 = self._store.add(result)
            self._say(order, state="done", stage="done", result=sha256, bytes=len(result))
        except Exception as exc:  # whatever it is, the node goes on
            self._say(order, state="failed", stage=one_line(exc)[:200], failure=Failure.of(exc))
        if self._log is not None and self._state is not None:
            seconds = round(time.monotonic() - began, 1)
            self._log.info("profiled", id=order.id, state=self._state.state, said=self._state.stage, seconds=seconds)

    def _measure(self, order: ProfileOrder) -> bytes:
        """The profile's file. What ``profile`` raises, with the operator's names."""
        puller = Puller(self._bus, self._names, self._store, stopped=self._unwanted, patience_s=PATIENCE_S)
        release = parse(Release, puller.record(order.release), MAX_RECORD)
        if release.kind != "artifact" or len(release.parts) != 1:
            raise BadArtifact("what is to be profiled is not one artifact")
        (part,) = release.parts.values()
        sizes = {file.sha256: file.bytes for file in part.files}
        if order.images:
            sizes[order.images.sha256] = order.images.bytes
        self._store.make_room(sizes)
        self._store.pin(order.id, sizes)
        scratch = Path(tempfile.mkdtemp(prefix="profile-", dir=self._store.root.parent))
        try:
            self._pull(order, puller, sizes)
            lay_out(self._store, part.laid, scratch / "artifact")
            return self._measured(order, scratch / "artifact")
        finally:
            self._store.unpin(order.id)
            shutil.rmtree(scratch, ignore_errors=True)

    def _measured(self, order: ProfileOrder, folder: Path) -> bytes:
        from edgevit.profiles.crops import SCHEME
        from edgevit.profiles.latency import profile
        from edgevit.profiles.scenarios import parse_scenario

        called, data = {str(folder): order.artifact}, None
        if order.images:
            data = f"{SCHEME}{self._store.path(order.images.sha256)}"
            called[data] = order.data or "its images"
        try:
            measured = profile(
                folder,
                runtime=order.runtime,
                provider=order.provider,
                tier=order.tier,
                threads=order.threads,
                batch=order.batch,
                data=data,
                scenario=parse_scenario(
                    order.scenario, qps=order.qps, bound_ms=order.bound_ms, fps=order.fps, minutes=order.minutes
                ),
                layers=order.layers,
                trust=order.trust,
                options=order.options,
                image_size=order.image_size,
                progress=lambda stage, share: self._go_on(order, stage, share),
            )
        except EdgeVitError as exc:
            exc.args, exc.hint = (_renamed(str(exc), called),), exc.hint and _renamed(exc.hint, called)
            raise
        if measured.saved is None:
            raise FleetError("the result could not be written")
        quoted = {json.dumps(here)[1:-1]: json.dumps(there)[1:-1] for here, there in called.items()}
        return _renamed(measured.saved.read_text("utf-8"), quoted).encode()

    def _pull(self, order: ProfileOrder, puller: Puller, sizes: Mapping[str, int]) -> None:
        total, came = sum(sizes.values()), 0

        def more(count: int) -> None:
            nonlocal came
            came += count
            self._go_on(order, "pulling", came / total if total else None)

        for sha256, size in sizes.items():
            puller.pull(sha256, size, more)

    def _unwanted(self) -> bool:
        return self._closing.is_set() or time.monotonic() - self._heard > SILENT_S

    def _go_on(self, order: ProfileOrder, stage: str, share: float | None) -> None:
        """Say how far it is. FleetError, which ends the measurement, when nobody waits for it any more."""
        if self._unwanted():
            raise FleetError("nobody waits for the result any more")
        self._say(order, stage=stage[:200], share=share)

    def _say(self, order: ProfileOrder, **fields: Any) -> None:
        self._state = JobState(node=self._node, id=order.id, **fields)
        self._bus.publish(self._names.job(self._node, order.id), self._state.encode())


def _renamed(text: str, called: Mapping[str, str]) -> str:
    for here, there in called.items():
        text = text.replace(here, there)
    return text
