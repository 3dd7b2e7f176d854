"""``edgevit profile ARTIFACT --on NODE``: the latency profiler on other devices, and its results back here.

The operator signs an order and serves the artifact's files; the node pulls them, checks every hash, and measures in
fresh processes as ``edgevit profile`` does there. The operator asks again with the same order to hear how far it is:
as long as it asks, the node works; when it has not been heard for a while, the node stops. What was measured is a file
like any other that ``profile`` writes, with the environment of the device.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgevit import render, signing
from edgevit.errors import BadArtifact, EdgeVitError, FleetError, UnknownName, UsageError, one_line
from edgevit.fleet.bus import Bus, Question, gather, take_or_refuse
from edgevit.fleet.link import Link, open_bus
from edgevit.fleet.messages import MAX_RECORD, BadMessage, Message, Name, Sha256, parse
from edgevit.fleet.names import Names
from edgevit.fleet.release import Packed, Release, pack
from edgevit.fleet.shipping import Puller, Supplier
from edgevit.fleet.store import Store, lay_out

if TYPE_CHECKING:
    from edgevit.fleet.logs import Log
    from edgevit.profiles.report.stored import Measurement

COLUMNS = ("node", "artifact", "runtime", "threads", "p50", "p90", "p99", "memory", "verdict")
ASK_S = 2.0  # for a word of the node
EVERY_S = 1.0  # between two questions how far it is
SILENT_S = 20.0  # without a word of the node: it is gone; of the operator: nobody wants the result
PATIENCE_S = 10.0  # for a byte of the artifact
MAX_RESULT = 64 << 20  # bytes of a result: some million samples
_WAITING = 16

Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Option = Annotated[str, Field(max_length=128)]
OnProgress = Callable[[str, str, str, float | None], None]  # node, artifact, stage, share


class ProfileOrder(Message):
    """The payload of ``order/<node>/profile``, signed by an operator. Asking again with it tells how far it is."""

    node: Name
    id: Identifier
    release: Sha256
    runtime: Option | None = None
    provider: Option | None = None
    tier: Option = "quick"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    batch: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    scenario: Option = "single-stream"
    layers: bool = False
    key: str = ""
    signature: str = ""

    @classmethod
    def signed(cls, **fields: Any) -> ProfileOrder:
        order = cls(**fields)
        key, signature = signing.sign_content(_DOMAIN, order._content())
        return order.model_copy(update={"key": key, "signature": signature})

    def check(self, trusted: Mapping[str, str]) -> None:
        """FleetError unless a trusted key signed it."""
        if self.key not in trusted or not signing.content_fits(_DOMAIN, self._content(), self.key, self.signature):
            raise FleetError("the order to profile is not signed by an operator who is trusted here")

    def _content(self) -> bytes:
        fields = self.model_dump(mode="json", exclude={"key", "signature"})
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


_DOMAIN = "edgevit profile, signature version 1"


class JobState(Message):
    """How far a measurement is; also published to ``job/<node>/<id>``. ``result`` is a blob that the node holds."""

    node: Name
    id: Identifier
    state: Literal["working", "done", "failed"] = "working"
    stage: Annotated[str, Field(max_length=200)] = "waiting"
    share: float | None = None
    result: Sha256 | None = None
    bytes: Annotated[int, Field(ge=0, le=MAX_RESULT)] = 0


# --- the node's side --------------------------------------------------------------------------------------------------


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
            hint = f" ({exc.hint})" if isinstance(exc, EdgeVitError) and exc.hint else ""
            self._say(order, state="failed", stage=f"{one_line(exc)}{hint}"[:200])
        if self._log is not None and self._state is not None:
            seconds = round(time.monotonic() - began, 1)
            self._log.info("profiled", id=order.id, state=self._state.state, said=self._state.stage, seconds=seconds)

    def _measure(self, order: ProfileOrder) -> bytes:
        """The profile's file."""
        from edgevit.profiles.latency import profile

        puller = Puller(self._bus, self._names, self._store, stopped=self._unwanted, patience_s=PATIENCE_S)
        release = parse(Release, puller.record(order.release), MAX_RECORD)
        if release.kind != "artifact" or len(release.parts) != 1:
            raise BadArtifact("what is to be profiled is not one artifact")
        (part,) = release.parts.values()
        sizes = {file.sha256: file.bytes for file in part.files}
        self._store.make_room(sizes)
        self._store.pin(order.id, sizes)
        scratch = Path(tempfile.mkdtemp(prefix="profile-", dir=self._store.root.parent))
        try:
            self._pull(order, puller, sizes)
            lay_out(self._store, part.laid, scratch / "artifact")
            measured = profile(
                scratch / "artifact",
                runtime=order.runtime,
                provider=order.provider,
                tier=order.tier,
                threads=order.threads,
                batch=order.batch,
                scenario=order.scenario,
                layers=order.layers,
                progress=lambda stage, share: self._go_on(order, stage, share),
            )
            if measured.saved is None:
                raise FleetError("the result could not be written")
            return measured.saved.read_bytes()
        finally:
            self._store.unpin(order.id)
            shutil.rmtree(scratch, ignore_errors=True)

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


# --- the operator's side ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemoteProfile:
    """One artifact on one node: what was measured, or why nothing was."""

    node: str
    artifact: Path
    measured: Measurement | None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        if self.measured is None:
            return {"node": self.node, "artifact": str(self.artifact), "error": self.error}
        raw = json.loads(self.measured.file.read_bytes())
        kept = ("runtime", "provider", "threads", "precision", "scenario", "tier", "verdict", "unmonitored", "p50_ms",
                "p90_ms", "p99_ms", "throughput", "samples", "load_ms", "first_ms", "peak_rss_bytes", "key", "reasons",
                "environment")  # fmt: skip
        return {
            "node": self.node,
            "artifact": str(self.artifact),
            **{name: raw.get(name) for name in kept},
            "saved": str(self.measured.file),
        }

    def cells(self) -> tuple[str, ...]:
        """Cells of ``COLUMNS``."""
        if self.measured is None:
            return (self.node, self.artifact.name, *["—"] * 6, f"failed: {self.error}")
        it = self.measured.stored
        figures = (render.ms(it.p50_ms), render.ms(it.p90_ms), render.ms(it.p99_ms))
        memory = render.si(it.peak_rss_bytes, "B")
        return (self.node, self.artifact.name, it.runtime, str(it.threads), *figures, memory, it.verdict)


@dataclass(frozen=True)
class RemoteProfiles:
    """Of every artifact on every node, in the order asked for."""

    results: tuple[RemoteProfile, ...]

    @property
    def failed(self) -> bool:
        return any(one.error for one in self.results)

    def record(self) -> list[dict[str, Any]]:
        return [one.record() for one in self.results]

    def rows(self) -> Iterator[tuple[str, ...]]:
        return (one.cells() for one in self.results)

    def lines(self) -> Iterator[str]:
        """Where the files are."""
        for one in self.results:
            if one.measured is not None:
                yield f"{one.node}: {one.measured.file}"


def profile_on(
    nodes: Sequence[str],
    artifacts: Sequence[Path | str],
    *,
    link: Link | None = None,
    runtime: str | None = None,
    provider: str | None = None,
    tier: str = "quick",
    threads: int | None = None,
    batch: int | None = None,
    scenario: str = "single-stream",
    layers: bool = False,
    out: Path | None = None,
    on_progress: OnProgress | None = None,
) -> RemoteProfiles:
    """Profile ``artifacts`` on ``nodes``: the nodes at the same time, the artifacts of each one after another.

    A bundle stands for its sub-models. Results go to ``ARTIFACT/profiles/…-NODE.json``, or ``out/NODE/``, which a fleet
    file can name as that node's ``profile``. A measurement that fails is a result; FleetError when no node is found,
    UnknownName for one that is not there, and what ``pack`` raises.
    """
    if not nodes or not artifacts:
        raise UsageError("nothing is to be profiled", hint="edgevit profile ARTIFACT --on NODE")
    paths = [path for artifact in artifacts for path in _members(Path(artifact))]
    packed = {path: pack(path) for path in paths}
    options = {"runtime": runtime, "provider": provider, "tier": tier, "threads": threads, "batch": batch,
               "scenario": scenario, "layers": layers}  # fmt: skip
    with _Operator(link or Link(), nodes, packed, options, out, on_progress) as operator:
        jobs = [(node, path) for node in dict.fromkeys(nodes) for path in paths]
        with ThreadPoolExecutor(len(nodes)) as threads_:
            by_node = threads_.map(operator.all_on, dict.fromkeys(nodes))
            found = {(one.node, one.artifact): one for results in by_node for one in results}
    return RemoteProfiles(tuple(found[job] for job in jobs))


def _members(path: Path) -> list[Path]:
    from edgevit.split.bundle import Bundle, is_bundle

    return [part.path for part in Bundle.open(path).parts()] if is_bundle(path) else [path]


class _Operator:
    """A session that serves the artifacts and gives the orders."""

    def __init__(
        self,
        link: Link,
        nodes: Sequence[str],
        packed: Mapping[Path, Packed],
        options: Mapping[str, Any],
        out: Path | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._link, self._nodes, self._packed, self._options, self._out = link, nodes, packed, options, out
        self._progress = on_progress or (lambda node, artifact, stage, share: None)
        self._stack = contextlib.ExitStack()
        self._stopped = threading.Event()

    def __enter__(self) -> _Operator:
        from edgevit.fleet.status import Watch

        with contextlib.ExitStack() as stack:
            name = f"operator-{os.getpid()}"
            self._bus = open_bus(self._link, "operator", name)
            stack.callback(self._bus.close)
            self._names = Names(self._link.cluster)
            watch = Watch(self._bus, self._names)
            stack.callback(watch.close)
            watch.settle(1.0)
            there = [row.node for row in watch.status().nodes if row.alive]
            if not there:
                raise FleetError(
                    "no node was found within 1 s", hint="edgevit node starts one; --connect names a fleet"
                )
            for node in self._nodes:
                if node not in there:
                    raise UnknownName("node of this fleet", node, there)
            stack.callback(Supplier(self._bus, self._names, name, self._find).close)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgevit-profiles-"))
            self._store = Store(Path(scratch))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._stack.close()

    def _find(self, sha256: str) -> Path | bytes | None:
        found = (one.find(sha256) for one in self._packed.values())
        return next((source for source in found if source is not None), None)

    def all_on(self, node: str) -> list[RemoteProfile]:
        """All artifacts on one node, one after another."""
        results = []
        for path, packed in self._packed.items():
            try:
                results.append(RemoteProfile(node, path, self._one(node, path, packed)))
            except EdgeVitError as exc:
                results.append(RemoteProfile(node, path, None, str(exc)))
        return results

    def _one(self, node: str, path: Path, packed: Packed) -> Measurement:
        order = ProfileOrder.signed(node=node, id=secrets.token_hex(8), release=packed.sha256, **self._options)
        heard = time.monotonic()
        while not self._stopped.is_set():
            state = self._ask(order)
            if state is not None:
                heard = time.monotonic()
                self._progress(node, path.name, state.stage, state.share)
                if state.state == "failed":
                    raise FleetError(f"{node}: {state.stage}")
                if state.state == "done":
                    return self._fetch(state, node, path)
            elif time.monotonic() - heard > SILENT_S:
                raise FleetError(f"{node} says nothing any more", hint="edgevit fleet status says if it is there")
            self._stopped.wait(EVERY_S)
        raise FleetError("stopped")

    def _ask(self, order: ProfileOrder) -> JobState | None:
        """How far the node is; None when it said nothing."""
        key = self._names.order(order.node, "profile")
        reply = gather(self._bus, key, payload=order.encode(), timeout_s=ASK_S)
        for refusal in reply.refusals:
            raise FleetError(f"{order.node} refused: {refusal}")
        for answer in reply.good:
            try:
                state = parse(JobState, answer.payload, MAX_RECORD)
            except BadMessage as exc:
                raise FleetError(f"{order.node} answers what cannot be read: {exc}") from exc
            if (state.id, state.node) == (order.id, order.node):
                return state
        return None

    def _fetch(self, state: JobState, node: str, path: Path) -> Measurement:
        """The result, checked and kept where it belongs."""
        from edgevit.profiles.report.stored import read

        if state.result is None:
            raise FleetError(f"{node} has no result")
        pulled = Puller(self._bus, self._names, self._store).pull(state.result, state.bytes)
        measured = read(pulled)
        if measured.stored.files != self._files(path):
            raise FleetError(f"{node} measured another artifact than {path}")
        folder = path / "profiles" if self._out is None else self._out / node
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{stamp}-{measured.stored.runtime}-{measured.stored.tier}-{node}.json"
        kept = folder / (name if self._out is None else f"{path.name}-{name}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pulled, kept)
        except OSError as exc:
            raise UsageError(f"{kept} cannot be written: {exc.strerror}", hint="choose another folder") from exc
        return read(kept)

    def _files(self, path: Path) -> dict[str, str]:
        from edgevit.artifact import Artifact

        return dict(Artifact.open(path).manifest.files)
