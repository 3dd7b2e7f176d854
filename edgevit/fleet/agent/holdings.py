"""What one node holds, and how it gets there: the node's side of ``order/<node>/{check,apply,drain}``.

    <node home>/blobs    the files that it has, for itself and as spare copies of what others hold alone
    <node home>/parts    a folder of them for every part that is loaded

An order is kept (orders.py) before anything is done about it, so that a node that is killed goes on with it. New parts
are pulled, checked, loaded and announced beside those that run; these go only when every part of the new order answers,
here and elsewhere.
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from edgevit.errors import BadArtifact, EdgeVitError, FleetError, one_line
from edgevit.fleet.agent import placing
from edgevit.fleet.agent.orders import Job, Kept, Key, Orders
from edgevit.fleet.agent.readiness import LOOK_S, Readiness, Traffic
from edgevit.fleet.agent.release import Release, read_release
from edgevit.fleet.agent.shipping import PATIENCE_S, Puller, Supplier
from edgevit.fleet.agent.store import CACHE_BYTES, Store, lay_out, node_home
from edgevit.fleet.bus.logs import Log
from edgevit.fleet.bus.messages import Held, PartFigures, Placement, Progress
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Bus, Question, take_or_refuse

ORDERS = 16  # that wait
RECORD_S = 5.0  # without a byte of a release record
SPARE_S = 1.0  # after an order, before spare copies are pulled
RETRY_S = 30.0  # after a part could not be had
STEP = 0.01  # of a pull, that is worth a message
_SENTENCE = 300


class Parts(Protocol):
    """What loads and unloads: the node's engine."""

    def load(self, placement_name: str, revision: str, part: str, folder: Path, memory_bytes: int) -> None: ...

    def unload(self, revision: str, part: str) -> None: ...

    def held(self) -> tuple[Held, ...]: ...

    def figures(self) -> tuple[PartFigures, ...]: ...


class Holdings:
    """One node's parts and orders.

    Args:
        memory_bytes: that all parts together may take
        trusted: public keys of operators, hex -> name; asked anew for every order
        root: what the node keeps; by default under ``$EDGEVIT_HOME``
        cache_bytes: of blobs on disk
    """

    def __init__(
        self,
        bus: Bus,
        names: Names,
        node: str,
        engine: Parts,
        *,
        memory_bytes: int,
        trusted: Callable[[], Mapping[str, str]],
        root: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
        patience_s: float = PATIENCE_S,
        log: Log | None = None,
    ) -> None:
        self._bus, self._names, self._node, self._engine = bus, names, node, engine
        self._log = log
        self.memory_bytes = memory_bytes
        self.root = root or node_home(node)
        self._book = Orders(self.root, node, trusted)
        self.store = Store(self.root / "blobs", cache_bytes)
        self._closing = threading.Event()
        serving = Traffic(engine.figures)
        self.puller = Puller(bus, names, self.store, serving=serving, stopped=self._closing.is_set, patience_s=RECORD_S)
        self._parts_puller = Puller(
            bus, names, self.store, serving=serving, stopped=self._stopped, patience_s=patience_s
        )
        self._lock = threading.Lock()  # of the two below
        self._states: dict[Key, Held] = {}  # of parts that the engine does not have, or not yet
        self._jobs: list[Job] = []
        self._at_work: Placement | None = None
        self._readiness: dict[str, Readiness] = {}
        self._orders: queue.Queue[Question | None] = queue.Queue(ORDERS)
        self._work: queue.Queue[Job | None] = queue.Queue()
        self._retry_at: float | None = time.monotonic() if self._book.known() else None
        self._spare_at: float | None = None
        self._yields = False  # what is at work gives way to any order
        self._declared = ExitStack()
        self._threads = [
            threading.Thread(target=self._take_orders, name="orders", daemon=True),
            threading.Thread(target=self._do, name="holdings", daemon=True),
        ]

    def open(self) -> None:
        """Serve files and orders, and begin to load what was held before. Returns at once."""
        self._declared.callback(Supplier(self._bus, self._names, self._node, self.store.path).close)
        self._declared.callback(self._bus.serve(self._names.place("*"), self._tell).close)
        for verb in ("check", "apply", "drain"):
            self._declared.callback(self._bus.serve(self._names.order(self._node, verb), self._hear).close)
        for unread in self._book.unread:
            self._say("warning", "cannot be read", file=unread)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop taking orders; a pull in work ends, and goes on the next time."""
        self._closing.set()
        self._declared.close()
        self._orders.put(None)
        self._work.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)
        for readiness in self._readiness.values():
            readiness.close()

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def drained(self) -> bool:
        return self._book.drained

    @property
    def free_bytes(self) -> int:
        return self.memory_bytes - sum(one.memory_bytes for one in self.held() if one.state != "failed")

    def held(self) -> tuple[Held, ...]:
        """Loaded parts, and those that are being pulled or loaded or could not be."""
        loaded = self._engine.held()
        have = {(one.revision, one.part) for one in loaded}
        with self._lock:
            return (*loaded, *(one for key, one in self._states.items() if key not in have))

    def known(self) -> dict[str, Placement]:
        """Deployment -> its newest order, withdrawn ones among them."""
        return self._book.known()

    def placements(self) -> dict[str, tuple[int, int]]:
        """Deployment -> generation."""
        return {name: placement.generation for name, placement in self.known().items()}

    def trusts(self, placement: Placement) -> bool:
        """Whether an operator who is trusted here signed it."""
        return self._book.trusts(placement)

    def release(self, placement: Placement) -> Release:
        """Its record, pulled if need be. FleetError when nobody has it."""
        try:
            return read_release(self.puller.record(placement.release), placement)
        except BadArtifact:  # damaged on this disk
            self.store.drop(placement.release)
            return read_release(self.puller.record(placement.release), placement)

    # --- orders, on their own thread ---------------------------------------------------------------------------------

    def _hear(self, question: Question) -> None:
        take_or_refuse(self._orders, question)

    def _take_orders(self) -> None:
        while (question := self._orders.get()) is not None:
            try:
                self._take(question)
            except EdgeVitError as exc:
                self._say("warning", "refused", order=question.key, reason=str(exc))
                question.refuse(_sentence(exc))
            except Exception as exc:  # a disk that fails, or what nobody thought of: the next order is heard
                self._say("warning", "order failed", order=question.key, reason=repr(exc))
                question.refuse(f"failed: {type(exc).__name__}")

    def _take(self, question: Question) -> None:
        verb = question.key.rpartition("/")[2]
        if verb == "drain":
            self._say("info", "drained" if self._book.drain(question) else "taking parts again")
            question.answer(b"", Progress(node=self._node, stage="ready").encode())
            question.finish()
        else:
            placement = self._book.read(question)
            if verb == "check":
                self._make_room(placement, self.release(placement))
                question.answer(b"", Progress(node=self._node, stage="checking").encode())
                question.finish()
            else:
                self._enqueue(placement, question)

    def _tell(self, question: Question) -> None:
        name = question.key.rpartition("/")[2]
        meta = json.dumps({"node": self._node}).encode()
        for known, placement in self.known().items():
            if name in ("*", known):
                question.answer(placement.encode(), meta)
        question.finish()

    def _enqueue(self, placement: Placement, question: Question) -> None:
        with self._lock:
            jobs = [job for job in self._jobs if job.placement == placement]
        if any(job.join(question) for job in jobs):
            return
        job = Job(placement, askers=[question])
        with self._lock:
            self._jobs.append(job)
        self._work.put(job)

    # --- work, on another one ----------------------------------------------------------------------------------------

    def _do(self) -> None:
        while not self._closing.is_set():
            try:
                due = self._readiness or self._retry_at is not None or self._spare_at is not None
                job = self._work.get(timeout=LOOK_S if due else None)
            except queue.Empty:
                self._look()
                continue
            if job is not None:
                self._carry_out(job)

    def _look(self) -> None:
        """What is done between orders: old parts go, what could not be had is tried again, spare copies are pulled."""
        self._yields = True
        try:
            if self._retry_at is not None and time.monotonic() >= self._retry_at:
                self._retry_at = None
                self._reload()
            self._settle()
            if self._spare_at is not None and time.monotonic() >= self._spare_at:
                self._spare_at = None
                self._keep_spares()
        except Exception as exc:  # whatever it was, it must not end the thread
            self._say("warning", "could not settle", reason=repr(exc))
            self._retry_at = time.monotonic() + RETRY_S
        finally:
            self._yields = False

    def _carry_out(self, job: Job) -> None:
        placement = job.placement
        try:
            placement = self._book.fence(placement)
            job.say(Progress(node=self._node, stage="checking"))
            release = None if placement.withdrawn else self.release(placement)
            if release is not None:
                self._make_room(placement, release)
            self._accept(placement)
            if release is not None:
                self._obtain(placement, release, job.say)
            self._begin_settling(placement)
            self._spare_at = time.monotonic() + SPARE_S
            end = Progress(node=self._node, stage="ready", share=1.0)
        except Exception as exc:  # an engine may raise anything while it opens a file
            self._say("warning", "order failed", deployment=placement.name, reason=_sentence(exc))
            end = Progress(node=self._node, stage="failed", said=_sentence(exc))
            if self.known().get(placement.name) == placement:
                self._retry_at = time.monotonic() + RETRY_S
        with self._lock:
            self._jobs.remove(job)
        job.end(end)

    def _make_room(self, placement: Placement, release: Release) -> None:
        """FleetError unless this node can take its parts: it is not drained, and has the memory and the disk."""
        mine = placement.nodes.get(self._node, ())
        if unknown := set(mine) - release.parts.keys():
            raise BadArtifact(f"{placement.name} has no part {min(unknown)}")
        if nowhere := release.parts.keys() - {part for parts in placement.nodes.values() for part in parts}:
            raise BadArtifact(f"the order for {placement.name} leaves {min(nowhere)} nowhere")
        wanted = self._book.wanted_with(placement)
        held = {(one.revision, one.part): one.memory_bytes for one in self._engine.held()}
        new = [part for part in dict.fromkeys(mine) if (placement.revision, part) not in held]
        if not new:
            return
        if self.drained:
            raise FleetError(f"{self._node} is drained", hint="edgevit drain --undo")
        needed = sum(release.parts[part].memory_bytes for part in new)
        free = self.memory_bytes - sum(size for key, size in held.items() if key in wanted)
        if needed > free:
            raise FleetError(
                f"{', '.join(new)} need {needed:,} bytes of memory, and {max(free, 0):,} of {self.memory_bytes:,} "
                "are free",
                hint="give the node more memory, or undeploy something",
            )
        self.store.make_room(release.sizes(tuple(new)))

    def _accept(self, placement: Placement) -> None:
        """From here on this is the order that counts, whatever happens to this process."""
        self._keep(self._book.accepted(placement))
        self._forget_unwanted()

    def _keep(self, kept: Kept) -> None:
        self._book.keep(kept)
        self._pin(kept)

    def _pin(self, kept: Kept) -> None:
        blobs: set[str] = set()
        for order in kept.orders:
            blobs.add(order.release)
            if (path := self.store.path(order.release)) is not None:
                release = read_release(path.read_bytes(), order)
                mine = tuple(part for part in order.nodes.get(self._node, ()) if part in release.parts)
                blobs |= release.sizes(mine).keys()
        self.store.pin(kept.newest.name, blobs)

    def _obtain(self, placement: Placement, release: Release, say: Callable[[Progress], None]) -> None:
        """Pull, check and load the parts that this node is to hold and does not. Raises what the first one raises."""
        held = {(one.revision, one.part) for one in self._engine.held()}
        new = [part for part in placement.nodes.get(self._node, ()) if (placement.revision, part) not in held]
        self._at_work = placement
        try:
            for part in new:
                self._state(placement, release, part, "pulling")
            self._pull(release, new, say)
            for number, part in enumerate(new):
                say(Progress(node=self._node, stage="loading", share=number / len(new), said=part))
                self._load(placement, release, part)
        except Exception as exc:
            have = {(one.revision, one.part) for one in self._engine.held()}
            for part in new:
                if (placement.revision, part) not in have:
                    self._state(placement, release, part, "failed", _sentence(exc))
            raise
        finally:
            self._at_work = None
        with self._lock:
            for part in new:
                self._states.pop((placement.revision, part), None)

    def _pull(self, release: Release, parts: list[str], say: Callable[[Progress], None]) -> None:
        sizes = release.sizes(tuple(parts))
        total, came, said = max(sum(sizes.values()), 1), 0, 0.0

        def more(count: int) -> None:
            nonlocal came, said
            came += count
            if came / total >= said + STEP:
                said = came / total
                say(Progress(node=self._node, stage="pulling", share=min(said, 1.0)))

        if parts:
            say(Progress(node=self._node, stage="pulling", share=0.0))
        for sha256, size in sizes.items():
            if self.store.path(sha256) is None:
                self._parts_puller.pull(sha256, size, more)
            else:
                more(size)

    def _load(self, placement: Placement, release: Release, part: str) -> None:
        one = release.parts[part]
        folder = self._folder((placement.revision, part))
        self._state(placement, release, part, "loading")
        try:
            lay_out(self.store, one.laid, folder)
        except BadArtifact:  # damaged on this disk, and dropped: once more from others
            self._pull(release, [part], lambda _: None)
            lay_out(self.store, one.laid, folder)
        self._engine.load(placement.name, placement.revision, part, folder, one.memory_bytes)

    def _state(self, placement: Placement, release: Release, part: str, state: str, reason: str | None = None) -> None:
        held = Held(
            revision=placement.revision,
            part=part,
            deployment=placement.name,
            state=state,  # type: ignore[arg-type]  # one of Held's
            memory_bytes=release.parts[part].memory_bytes,
            reason=reason,
        )
        with self._lock:
            self._states[placement.revision, part] = held

    def _keep_spares(self) -> None:
        """Have the files of parts that others hold alone, as far as there is room."""
        try:
            for order in self.known().values():
                mine = placing.spares(order.nodes, self._node)
                if not order.withdrawn and mine:
                    sizes = self.release(order).sizes(mine)
                    self.store.make_room(sizes)
                    for sha256, size in sizes.items():
                        self._parts_puller.pull(sha256, size)
        except EdgeVitError as exc:
            self._spare_at = time.monotonic() + RETRY_S
            self._say("info", "no spare copy yet", reason=_sentence(exc))

    def _stopped(self) -> bool:
        """Whether the pull in work is for an order that counts no longer, or may wait."""
        working = self._at_work
        if self._closing.is_set() or (self._yields and self._jobs):
            return True
        if working is None:
            return False
        with self._lock:
            waiting = [job.placement for job in self._jobs if job.placement.name == working.name]
        return any(one.generation > working.generation for one in waiting)

    # --- letting go of what was replaced -----------------------------------------------------------------------------

    def _begin_settling(self, placement: Placement) -> None:
        kept = self._book.kept().get(placement.name)
        old = self._readiness.pop(placement.name, None)
        if old is not None:
            old.close()
        if kept is None or kept.newest != placement or kept.before is None:
            return
        if kept.before.nodes.get(self._node):
            self._readiness[placement.name] = Readiness(self._bus, self._names, placement)
        else:
            self._keep(Kept(newest=placement))

    def _settle(self) -> None:
        """Let go of what was replaced where all of the newest order answers."""
        for name, readiness in list(self._readiness.items()):
            mine = {part for revision, part in self._loaded() if revision == readiness.placement.revision}
            if readiness.whole(self._node, mine):
                del self._readiness[name]
                readiness.close()
                self._keep(Kept(newest=readiness.placement))
                self._forget_unwanted()

    def _loaded(self) -> set[Key]:
        return {(one.revision, one.part) for one in self._engine.held() if one.state == "ready"}

    def _forget_unwanted(self) -> None:
        wanted = self._book.wanted()
        with self._lock:
            for key in set(self._states) - wanted:
                del self._states[key]
        for key in self._loaded() - wanted:
            self._engine.unload(*key)
            self._say("info", "let go", revision=key[0][:12], part=key[1])
        for folder in self._folders():
            if (folder.parent.name, folder.name) not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()

    def _folder(self, key: Key) -> Path:
        return self.root / "parts" / key[0] / key[1]

    def _folders(self) -> list[Path]:
        return list((self.root / "parts").glob("*/*"))

    # --- after a start -----------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Load what is wanted and not held, as after a start; what cannot be had is tried again later."""
        self._forget_unwanted()
        for one in self._book.kept().values():
            for order in one.orders:
                try:
                    self._book.check(order)
                    release = self.release(order)
                    self._pin(one)
                    self._make_room(order, release)
                    self._obtain(order, release, lambda _: None)
                except Exception as exc:  # as in _carry_out
                    self._say("warning", "not loaded", deployment=order.name, reason=_sentence(exc))
                    self._retry_at = time.monotonic() + RETRY_S
            self._begin_settling(one.newest)
        self._spare_at = time.monotonic() + SPARE_S

    def _say(self, level: str, event: str, **fields: object) -> None:
        if self._log is not None:
            (self._log.warning if level == "warning" else self._log.info)(event, **fields)


def _sentence(exc: Exception) -> str:
    return one_line(exc)[:_SENTENCE]
