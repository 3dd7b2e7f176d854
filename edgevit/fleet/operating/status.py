"""Who is alive, what each node runs and how fast: ``edgevit fleet status``, ``nodes``, ``top`` and ``logs``.

``Watch`` keeps what nodes announce (live, ready), publish (beats) and answer (info) up to date; a ``Status`` is a copy
of it at one moment. A node that should hold something by a placement, or that was there before, is shown as gone.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgevit import render
from edgevit.errors import FleetError, UnknownName
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, Beat, Info, Placement, parse, record
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Answer, Bus, Closer, gather

COLUMNS = ("node", "state", "sub-models", "p50", "queued", "answered", "refused", "memory", "free", "load")
MACHINE_COLUMNS = ("node", "state", "system", "cores", "memory", "runtimes", "python", "edgevit", "labels")
SILENT_S = 2.0  # without a beat a node that is still announced is called silent: it may be stopped or overloaded
SETTLE_S = 0.2  # without a new node, the list of nodes is taken to be complete
ASK_S = 1.0
MAX_NODES = 20_000  # that a watcher keeps

OnEvent = Callable[[str, str], None]  # kind ("joined", "gone", "ready", "withdrawn", "silent", "back"), sentence


@dataclass(frozen=True)
class NodeRow:
    """One node at one moment.

    state   up, silent (announced but no beat for 2 s), drained, or gone
    parts   names of the sub-models it has announced as ready
    p50_ms  queue and compute of its slowest sub-model, of its newest answers
    """

    node: str
    state: str
    parts: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    info: Info | None = None
    beat: Beat | None = None
    seen_s: float | None = None

    @property
    def alive(self) -> bool:
        return self.state != "gone"

    @property
    def p50_ms(self) -> float | None:
        parts = self.beat.parts if self.beat else ()
        known = [(one.queue_p50_ms or 0.0) + one.compute_p50_ms for one in parts if one.compute_p50_ms is not None]
        return max(known, default=None)

    @property
    def memory_bytes(self) -> int | None:
        source = self.beat or self.info
        return source.memory_bytes if source else None

    @property
    def free_bytes(self) -> int | None:
        source = self.beat or self.info
        return source.free_bytes if source else None

    def total(self, figure: str) -> int:
        """The sum of one of PartFigures' counters."""
        return sum(getattr(one, figure) for one in (self.beat.parts if self.beat else ()))

    def record(self) -> dict[str, Any]:
        info, beat = self.info, self.beat
        return {
            "node": self.node,
            "alive": self.alive,
            "state": self.state,
            "parts": list(self.parts),
            "revisions": list(self.revisions),
            "memory_bytes": self.memory_bytes,
            "free_bytes": self.free_bytes,
            "p50_ms": self.p50_ms,
            "rss_bytes": beat.rss_bytes if beat else None,
            "load": beat.load if beat else None,
            "figures": [one.model_dump() for one in beat.parts] if beat else [],
            "held": [one.model_dump() for one in info.held] if info else [],
            "labels": info.labels if info else {},
            "machine": _machine(info) if info else None,
        }

    def cells(self) -> tuple[str, ...]:
        """Cells of ``COLUMNS``."""
        refused = self.total("busy") + self.total("late") + self.total("failed")
        load = self.beat.load if self.beat else None
        return (
            self.node,
            self.state,
            ", ".join(self.parts) or "—",
            render.ms(self.p50_ms),
            str(self.total("queued")),
            f"{self.total('answered'):,}",
            f"{refused:,}",
            render.si(self.memory_bytes, "B"),
            render.si(self.free_bytes, "B"),
            "—" if load is None else f"{load:.0%}",
        )

    def machine_cells(self) -> tuple[str, ...]:
        """Cells of ``MACHINE_COLUMNS``."""
        if self.info is None:
            return (self.node, self.state, *["—"] * (len(MACHINE_COLUMNS) - 2))
        info = self.info
        return (
            self.node,
            self.state,
            f"{info.system} {info.arch}",
            str(info.cores),
            render.si(info.memory_bytes, "B"),
            ", ".join(info.runtimes),
            info.python,
            info.edgevit,
            ", ".join(f"{key}={value}" for key, value in info.labels.items()) or "—",
        )


def _machine(info: Info) -> dict[str, Any]:
    kept = ("edgevit", "arch", "system", "python", "cores", "runtimes", "macs_per_s", "started")
    return {key: value for key, value in info.model_dump(mode="json").items() if key in kept}


@dataclass(frozen=True)
class Status:
    """A fleet at one moment."""

    nodes: tuple[NodeRow, ...]
    placements: tuple[Placement, ...] = ()

    def record(self) -> list[dict[str, Any]]:
        return [node.record() for node in self.nodes]

    def rows(self) -> Iterator[tuple[str, ...]]:
        return (node.cells() for node in self.nodes)

    def machine_rows(self) -> Iterator[tuple[str, ...]]:
        return (node.machine_cells() for node in self.nodes)

    def lines(self) -> Iterator[str]:
        """The fleet in a sentence, and one for every deployment that lacks something."""
        alive = [node for node in self.nodes if node.alive]
        gone = len(self.nodes) - len(alive)
        yield f"{render.counted(len(alive), 'node')} up" + (f", {gone} gone" if gone else "")
        for placed in self.placements:
            if placed.withdrawn:
                continue
            wanted = {part for parts in placed.nodes.values() for part in parts}
            there = {part for node in alive if placed.revision in node.revisions for part in node.parts}
            lacking = sorted(wanted - there)
            state = f"lacks {', '.join(lacking)}" if lacking else "all there"
            yield f"{placed.name}: {len(wanted) - len(lacking)}/{len(wanted)} sub-models, {state}"


@dataclass
class _Seen:
    """What a watcher knows of one node."""

    incarnations: set[str] = field(default_factory=set)
    ready: set[tuple[str, str, str]] = field(default_factory=set)  # revision, part, incarnation
    info: Info | None = None
    beat: Beat | None = None
    beat_at: float = 0.0
    silent: bool = False

    def state(self, now: float) -> str:
        if not self.incarnations:
            return "gone"
        if now - self.beat_at > SILENT_S:
            return "silent"
        return "drained" if self.beat and self.beat.drained else "up"


class Watch:
    """Follows a fleet. Thread-safe; the bus's callbacks only change tables. ``on_event`` is called on the bus's threads
    and must not block."""

    def __init__(self, bus: Bus, names: Names) -> None:
        self.bus, self.names = bus, names
        self.on_event: OnEvent = lambda kind, sentence: None
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._changed = threading.Condition(self._lock)
        self._newest = time.monotonic()
        self.rejected = 0
        self._asking = False
        self._closers: list[Closer] = [
            bus.listen(names.beat(), self._on_beat),
            bus.watch(names.ready(), self._on_ready),
            bus.watch(names.live(), self._on_live),
        ]

    def status(self) -> Status:
        """The nodes by name. Nodes that were never there are not known here."""
        now = time.monotonic()
        with self._lock:
            return Status(tuple(self._row(name, self._seen[name], now) for name in sorted(self._seen, key=_natural)))

    def ask_info(self, node: str = "*", timeout_s: float = ASK_S) -> None:
        """Ask all nodes what they are, and from then on each that joins; returns at once, the answers come into the
        table."""
        self._asking = True
        self.bus.ask(self.names.info(node), self._on_info, lambda: None, timeout_s=timeout_s)

    def settle(self, timeout_s: float) -> None:
        """Wait until no new node has turned up for a moment, at most ``timeout_s``."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while (now := time.monotonic()) < end:
                quiet = self._newest + SETTLE_S
                if now >= quiet and self._seen:
                    return
                self._changed.wait(min(end, quiet if self._seen else end) - now)

    def complete(self, timeout_s: float) -> bool:
        """Wait until every node that was seen is announced, has answered and beaten; False when some have not."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not all(one.incarnations and one.info and one.beat for one in self._seen.values()):
                if (left := end - time.monotonic()) <= 0:
                    return False
                self._changed.wait(left)
        return True

    def expect(self, nodes: Sequence[str]) -> None:
        """Nodes that should be there; shown as gone until they are."""
        with self._lock:
            for node in nodes:
                self._table(node)

    def silences(self) -> None:
        """Say of nodes that fell silent, or came back, that they did. Called by who wants such events."""
        now = time.monotonic()
        with self._lock:
            changed = [
                (name, one)
                for name, one in self._seen.items()
                if one.incarnations and one.silent != (one.state(now) == "silent")
            ]
            for _, one in changed:
                one.silent = not one.silent
        for name, one in changed:
            self.on_event(*(("silent", f"{name} says nothing") if one.silent else ("back", f"{name} speaks again")))

    def close(self) -> None:
        for closer in self._closers:
            closer.close()

    def _row(self, name: str, one: _Seen, now: float) -> NodeRow:
        return NodeRow(
            node=name,
            state=one.state(now),
            parts=tuple(sorted({part for _, part, _ in one.ready}, key=_natural)),
            revisions=tuple(sorted({revision for revision, _, _ in one.ready})),
            info=one.info,
            beat=one.beat if one.incarnations else None,
            seen_s=now - one.beat_at if one.beat else None,
        )

    def _table(self, node: str) -> _Seen | None:
        """The table of a node, made if there is room."""
        if node not in self._seen and len(self._seen) < MAX_NODES:
            self._seen[node] = _Seen(beat_at=time.monotonic())
        return self._seen.get(node)

    def _on_live(self, key: str, here: bool) -> None:
        _, node, incarnation = self.names.steps(key)
        with self._changed:
            if (one := self._table(node)) is None:
                return
            before = bool(one.incarnations)
            (one.incarnations.add if here else one.incarnations.discard)(incarnation)
            if here:
                self._newest = one.beat_at = time.monotonic()
            known, after = one.info, bool(one.incarnations)
            self._changed.notify_all()
        if before != after:
            self.on_event("joined" if after else "gone", f"{node} is {'there' if after else 'gone'}")
        if self._asking and after and (known is None or known.incarnation != incarnation):
            self.ask_info(node)

    def _on_ready(self, key: str, here: bool) -> None:
        _, revision, part, node, incarnation = self.names.steps(key)
        with self._changed:
            if (one := self._table(node)) is None:
                return
            (one.ready.add if here else one.ready.discard)((revision, part, incarnation))
            self._changed.notify_all()
        self.on_event("ready" if here else "withdrawn", f"{part} is {'ready on' if here else 'no longer on'} {node}")

    def _on_beat(self, key: str, data: bytes) -> None:
        try:
            beat = parse(Beat, data, MAX_RECORD)
        except BadMessage:
            self.rejected += 1
            return
        with self._changed:
            if beat.node != self.names.steps(key)[-1] or (one := self._seen.get(beat.node)) is None:
                return
            one.beat, one.beat_at = beat, time.monotonic()
            self._changed.notify_all()

    def _on_info(self, answer: Answer) -> None:
        if answer.refused is not None:
            return
        try:
            info = parse(Info, answer.payload, MAX_RECORD)
        except BadMessage:
            self.rejected += 1
            return
        with self._changed:
            one = self._table(info.node)
            if one is not None and (one.info is None or _age(info) >= _age(one.info)):
                one.info = info
                self._changed.notify_all()


def _age(info: Info) -> tuple[str, str]:
    """Later for a later start: of two incarnations that both answer for a while, the younger one counts."""
    return info.started, info.incarnation


def _natural(name: str) -> tuple[str, int, str]:
    """part-2 before part-10."""
    head = name.rstrip("0123456789")
    tail = name[len(head) :]
    return head, int(tail or 0), name


def status(link: Link, *, wait_s: float = 1.0) -> Status:
    """The fleet now. FleetError when no node is found within ``wait_s``."""
    with _watching(link, wait_s) as watch:
        watch.complete(ASK_S)
        return _placed(watch)


def top(link: Link, *, every_s: float = 1.0, wait_s: float = 1.0) -> Iterator[Status]:
    """The fleet again and again, until the caller stops."""
    with _watching(link, wait_s) as watch:
        watch.complete(ASK_S)
        while True:
            yield _placed(watch)
            time.sleep(every_s)


@contextlib.contextmanager
def _watching(link: Link, wait_s: float) -> Iterator[Watch]:
    bus = open_bus(link, "operator")
    try:
        watch = Watch(bus, Names(link.cluster))
        watch.ask_info()  # while the nodes are still coming to sight
        watch.settle(wait_s)
        if not watch.status().nodes:
            raise FleetError(
                f"no node was found within {wait_s:g} s",
                hint="edgevit node starts one; --connect names an endpoint of a fleet elsewhere",
            )
        yield watch
    finally:
        bus.close()


def _placed(watch: Watch) -> Status:
    """The status with the newest placement of every deployment, and the nodes that they want."""
    placements = newest_placements(watch.bus, watch.names)
    watch.expect([node for one in placements if not one.withdrawn for node in one.nodes])
    return replace(watch.status(), placements=placements)


def newest_placements(bus: Bus, names: Names, timeout_s: float = 0.5) -> tuple[Placement, ...]:
    """Of every deployment the placement of the highest generation that any node knows."""
    found: dict[str, Placement] = {}
    for answer in gather(bus, names.place(), timeout_s=timeout_s, expected=None).good:
        with contextlib.suppress(BadMessage):
            one = parse(Placement, answer.payload, MAX_RECORD)
            if one.name not in found or found[one.name].generation < one.generation:
                found[one.name] = one
    return tuple(found[name] for name in sorted(found))


@dataclass(frozen=True)
class Logs:
    """Log lines of several nodes, the oldest first."""

    entries: tuple[dict[str, Any], ...]

    def record(self) -> list[dict[str, Any]]:
        return list(self.entries)

    def lines(self) -> Iterator[str]:
        for entry in self.entries:
            rest = {key: value for key, value in entry.items() if key not in ("at", "node", "level", "event")}
            said = " ".join(f"{key}={value}" for key, value in rest.items())
            yield f"{str(entry.get('at'))[:23]} {entry.get('node')} {entry.get('level')}: {entry.get('event')} {said}"


def logs(
    link: Link, nodes: Sequence[str] = (), *, lines: int = 100, trace: str | None = None, wait_s: float = 1.0
) -> Logs:
    """The newest ``lines`` of every node, or of these; with ``trace``, only those about one request.

    FleetError when no node is found, UnknownName for a node that is not there.
    """
    asked = json.dumps({"lines": lines} | ({"trace": trace} if trace else {})).encode()
    with _watching(link, wait_s) as watch:
        there = [node.node for node in watch.status().nodes if node.alive]
        for node in nodes:
            if node not in there:
                raise UnknownName("node of this fleet", node, there)
        keys = [watch.names.log(node) for node in nodes] or [watch.names.log()]
        expected = 1 if nodes else len(there)
        found = [
            entry
            for key in keys
            for answer in gather(watch.bus, key, meta=asked, timeout_s=ASK_S, expected=expected).good
            for entry in _entries(answer.payload)
        ]
    return Logs(tuple(sorted(found, key=lambda entry: str(entry.get("at")))))


def _entries(payload: bytes) -> Iterator[dict[str, Any]]:
    for line in payload[:MAX_RECORD].splitlines():
        with contextlib.suppress(BadMessage):
            yield record(line)
