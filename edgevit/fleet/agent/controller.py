"""Keeps deployments placed while no operator looks: one elected node has the parts of a node that is gone taken over.

Every node announces that it may be the controller; of those that answer the one of the lowest name is. It acts on the
newest order that any node knows, with its step raised and more parts on the nodes that the operator named as hosts; it
takes nothing away, so that a node which comes back serves again what it was given. On both sides of a cut there is one;
when the cut heals, what was taken over on either side counts, and the one controller that is left tells all of it to
all.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from edgevit.bundle.assign import Node
from edgevit.errors import EdgeVitError
from edgevit.fleet.agent import placing
from edgevit.fleet.agent.known import Known, known_infos, known_orders
from edgevit.fleet.agent.placing import Where
from edgevit.fleet.agent.release import Release
from edgevit.fleet.bus.logs import Log
from edgevit.fleet.bus.messages import MAX_GENERATION, BadMessage, Info, Placement, Progress, both, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Answer, Bus, Closer
from edgevit.fleet.trust.signatures import pairs

TICK_S = 0.5
SOON_S = 1.0  # between two looks at one that is not as it should be
LOOK_S = 3.0  # between two looks at a fleet in which nothing changes
AGAIN_S = 10.0  # before a node hears an order again that it should know
BANNED_S = 300.0  # that a node which could not take a part is left in peace
ORDER_S = 600.0
DOUBTED_S, ANSWERED_S = 60.0, 15.0  # until a candidate is asked again whether it is there


class Knows(Protocol):
    """What the controller needs of its own node's holdings."""

    def trusts(self, placement: Placement) -> bool: ...

    def release(self, placement: Placement) -> Release: ...


class Controller:
    """One node's candidacy, and what it does while it is elected."""

    def __init__(
        self, bus: Bus, names: Names, node: str, incarnation: str, holdings: Knows, *, log: Log | None = None
    ) -> None:
        self._bus, self._names, self._holdings, self._log = bus, names, holdings, log
        self._me = (node, incarnation)
        self._lock = threading.Lock()
        self._candidates: set[tuple[str, ...]] = set()
        self._doubted: dict[tuple[str, ...], float] = {}  # candidates that do not answer -> until when they are passed
        self._answered: dict[tuple[str, ...], float] = {}  # the one that does -> until when it is believed
        self._live: set[tuple[str, ...]] = set()
        self._left: dict[str, float] = {}  # node -> since when it is gone, or was first missed
        self._failing: dict[tuple[str, str, str], float] = {}  # node, revision, part -> since when it could not be had
        self._banned: dict[tuple[str, str], float] = {}  # node, revision -> until when
        self._told: dict[tuple[str, str, tuple[int, int]], float] = {}
        self._stir = threading.Event()
        self._closing = threading.Event()
        self._declared: list[Closer] = []
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)

    def open(self) -> None:
        """Stand for election. Returns at once."""
        self._declared.append(self._bus.watch(self._names.control(), self._candidate))
        self._declared.append(self._bus.watch(self._names.live(), self._came_or_went))
        self._declared.append(self._bus.announce(self._names.control(*self._me)))
        self._thread.start()

    def close(self) -> None:
        for one in reversed(self._declared):
            one.close()
        self._closing.set()
        self._stir.set()
        if self._thread.is_alive():
            self._thread.join(3)

    def _leads(self) -> bool:
        """Whether this node is elected. Any node can announce a candidate that is none; with identities one counts only
        if it answers as that node."""
        while (first := self._first()) != self._me:
            if self._bus.identity is None or self._answers(first):
                return False
            with self._lock:
                self._doubted[first] = time.monotonic() + DOUBTED_S
        return True

    def _first(self) -> tuple[str, ...]:
        now = time.monotonic()
        with self._lock:
            return min({one for one in self._candidates if self._doubted.get(one, 0.0) < now} | {self._me})

    def _answers(self, candidate: tuple[str, ...]) -> bool:
        now = time.monotonic()
        if self._answered.get(candidate, 0.0) < now:
            node, incarnation = candidate
            if all(info.incarnation != incarnation for info in known_infos(self._bus, self._names, node)):
                return False
            self._answered = {candidate: now + ANSWERED_S}
        return True

    def _candidate(self, key: str, there: bool) -> None:
        with self._lock:
            (self._candidates.add if there else self._candidates.discard)(self._names.steps(key)[1:])

    def _came_or_went(self, key: str, there: bool) -> None:
        one = self._names.steps(key)[1:]
        with self._lock:
            (self._live.add if there else self._live.discard)(one)
            if any(node == one[0] for node, *_ in self._live):
                self._left.pop(one[0], None)
            else:
                self._left[one[0]] = time.monotonic()
        self._stir.set()

    def _run(self) -> None:
        look_at = time.monotonic() + 2 * TICK_S  # by then the other candidates are known
        while not self._closing.wait(TICK_S):
            if self._stir.is_set():
                self._stir.clear()
                look_at = min(look_at, time.monotonic() + TICK_S)
            if time.monotonic() < look_at or not self._leads():
                continue
            busy = True
            try:
                busy = self._look()
            except Exception as exc:  # whatever it was: the next look may find it gone
                self._say("controller failed", reason=str(exc) if isinstance(exc, EdgeVitError) else repr(exc))
            look_at = time.monotonic() + (SOON_S if busy else LOOK_S)

    def _look(self) -> bool:
        """See to every deployment; whether one is not as it should be."""
        known = known_orders(self._bus, self._names, accept=self._holdings.trusts)
        if not known:
            return False
        infos = {one.node: one for one in known_infos(self._bus, self._names)}
        with self._lock:
            live = {node for node, *_ in self._live}
        busy = [self._see_to(one, infos, live) for one in known.values()]
        return any(busy)

    def _see_to(self, known: Known, infos: Mapping[str, Info], live: set[str]) -> bool:
        order = known.newest
        away = {node for node in order.nodes if node not in live}
        where = dict(order.nodes) if order.withdrawn else self._where(order, infos, away)
        if known.conflict or where != order.nodes:
            order = order.model_copy(update={"step": min(order.step + 1, MAX_GENERATION), "nodes": where})
            self._say(
                "placed anew",
                deployment=order.name,
                step=order.step,
                moved=placing.moves(known.newest.nodes, where),
            )
        behind = {node for node in live if known.orders.get(node) != order}
        for node in sorted(behind):
            self._tell(node, order)
        lost = any(_short({node: parts for node, parts in where.items() if node in live}, order) for _ in away)
        return bool(behind) or lost

    def _where(self, order: Placement, infos: Mapping[str, Info], away: set[str]) -> Where:
        """``order.nodes``, and with it the parts of nodes that are gone for good, or fail, on other hosts, as far as
        these can."""
        now = time.monotonic()
        with self._lock:
            gone = {node for node in away if now - self._left.setdefault(node, now) >= order.replace_after_s}
        banned = {
            node for (node, revision), until in self._banned.items() if revision == order.revision and until > now
        }
        failed = self._failed(order, infos, now) | _refused(order, infos, banned)
        kept = {
            node: tuple(part for part in parts if (node, part) not in failed)
            for node, parts in order.nodes.items()
            if node not in gone
        }
        if pairs(kept) == pairs(order.nodes) or not _short(kept, order):
            return dict(order.nodes)
        parts = self._holdings.release(order).placement_parts()
        need = {part.name: part.memory_bytes for part in parts}
        without = banned | {node for node, _ in failed} | (infos.keys() - set(order.hosts))
        nodes = placing.candidates(infos.values(), order.revision, without=without)
        able = {node.name for node in nodes}
        full = [Node(node, sum(need[part] for part in kept[node])) for node in sorted(kept.keys() - able)]
        where = placing.fill(parts, [*nodes, *full], kept, order.replicas)
        hosts = [node for node in infos if node in order.hosts]
        return both(order.nodes, placing.with_spare(where, hosts))

    def _failed(self, order: Placement, infos: Mapping[str, Info], now: float) -> set[tuple[str, str]]:
        """(node, part) that a node that is up has failed to load for as long as a gone one is waited for."""
        failing = {
            (info.node, one.revision, one.part)
            for info in infos.values()
            for one in info.held
            if one.state == "failed" and one.revision == order.revision
        }
        for key in [key for key in self._failing if key[1] == order.revision and key not in failing]:
            del self._failing[key]
        return {
            (node, part)
            for node, revision, part in failing
            if now - self._failing.setdefault((node, revision, part), now) >= order.replace_after_s
        }

    def _tell(self, node: str, order: Placement) -> None:
        """Give the order; what comes of it is seen at a later look."""
        key, now = (node, order.name, order.generation), time.monotonic()
        if now - self._told.get(key, -AGAIN_S) < AGAIN_S:
            return
        for old in [one for one, at in list(self._told.items()) if now - at > ORDER_S]:
            self._told.pop(old, None)
        self._told[key] = now
        heard_of_it = threading.Event()

        def heard(answer: Answer) -> None:
            heard_of_it.set()
            if answer.refused in (None, "busy"):
                with suppress(BadMessage):
                    if parse(Progress, answer.meta).stage != "failed":
                        return
            if order.nodes.get(node) and answer.refused != "busy":
                with self._lock:
                    self._banned[node, order.revision] = time.monotonic() + BANNED_S
            self._say("an order was refused", to=node, deployment=order.name, reason=answer.refused or "failed")

        def over() -> None:
            if not heard_of_it.is_set():  # it was lost on the way
                self._told.pop(key, None)

        self._bus.ask(self._names.order(node, "apply"), heard, over, payload=order.encode(), timeout_s=ORDER_S)

    def _say(self, event: str, **fields: object) -> None:
        if self._log is not None:
            self._log.info(event, **fields)


def _refused(order: Placement, infos: Mapping[str, Info], banned: Iterable[str]) -> set[tuple[str, str]]:
    """(node, part) that nodes were told to take over, and have not."""
    held = {(info.node, one.part) for info in infos.values() for one in info.held if one.revision == order.revision}
    return {(node, part) for node in banned for part in order.nodes.get(node, ())} - held


def _short(kept: Mapping[str, Iterable[str]], order: Placement) -> bool:
    """Whether a part has fewer replicas than it was given."""
    have, given = (Counter(part for _, part in pairs(where)) for where in (kept, order.given))
    return any(have[part] < count for part, count in given.items())
