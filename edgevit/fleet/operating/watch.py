"""Follows a fleet: what nodes announce (live, ready), publish (beats) and answer (info), as one table.

A node that should hold something by a placement, or that was there before, is shown as gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from edgevit.errors import FleetError
from edgevit.fleet.agent.placing import natural
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, Beat, Info, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Answer, Bus, Closer
from edgevit.fleet.operating.rows import NodeRow, Status

SILENT_S = 2.0  # without a beat a node that is still announced is called silent: it may be stopped or overloaded
SETTLE_S = 0.2  # without a new node, the list of nodes is taken to be complete
ASK_S = 1.0
MAX_NODES = 20_000  # that a watcher keeps

OnEvent = Callable[[str, str], None]  # kind ("joined", "gone", "ready", "withdrawn", "silent", "back"), sentence


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
            return Status(tuple(self._row(name, self._seen[name], now) for name in sorted(self._seen, key=natural)))

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
            parts=tuple(sorted({part for _, part, _ in one.ready}, key=natural)),
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
            one = self._table(info.node) if info.node == self.names.steps(answer.key)[-1] else None
            if one is not None and (one.info is None or _age(info) >= _age(one.info)):
                one.info = info
                self._changed.notify_all()


def _age(info: Info) -> tuple[str, str]:
    """Later for a later start: of two incarnations that both answer for a while, the younger one counts."""
    return info.started, info.incarnation


@contextlib.contextmanager
def watching(link: Link, wait_s: float) -> Iterator[Watch]:
    """A watcher of the fleet, once it knows who is there. FleetError when no node is found within ``wait_s``."""
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
