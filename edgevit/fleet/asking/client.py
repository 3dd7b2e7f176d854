"""Asks the nodes that hold a model's parts, all at once, and gathers what comes back before the deadline.

One question a part, to the replica that has a credit and is expected to be quickest. A refusal, an answer that is not
what was asked for, silence, or the node's departure send the question to the next replica with the time that is left;
so does slowness, beyond the 95th percentile of that part. A node that keeps failing is left alone for a while
(breaker.py). What has not answered at the deadline is missing.

The caller's thread runs its own request; the bus's threads only check an answer and hand it over. One lock guards all
state, and is never held while the bus is called.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from edgevit.fleet.asking.breaker import Breaker, State
from edgevit.fleet.asking.credits import WINDOW, Credits
from edgevit.fleet.asking.pace import Mean, Pace
from edgevit.fleet.asking.questions import Gathered, Load, PartAnswer, Wanted, checked
from edgevit.fleet.asking.routes import Routes
from edgevit.fleet.bus.messages import BadMessage
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Answer, Bus

LATE_S = 10.0  # how long after its deadline an answer is still waited for, to have its credit back
NOT_NOW, TOO_LATE = ("busy", "leaving"), "late"  # refusals of a node that is well, and of one that is too slow
SAID = 200  # characters of a node's refusal that are kept


@dataclass(slots=True)
class NodeFigures:
    """What a client has seen of one node.

    late      answers or refusals after their deadline   missed    questions unanswered at their deadline
    rejected  answers that were not what was asked for: id, dtype, shape, NaN, or no message at all
    replayed  further answers to a question that was answered
    hedged    questions to it because another replica was slow
    """

    node: str
    asked: int = 0
    answered: int = 0
    busy: int = 0
    refused: int = 0
    silent: int = 0
    late: int = 0
    missed: int = 0
    rejected: int = 0
    replayed: int = 0
    hedged: int = 0
    owed: int = 0
    breaker: State = "closed"

    def record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class _Peer:
    """A node as this client knows it."""

    def __init__(self, node: str) -> None:
        self.credits: Credits[_Ask] = Credits()
        self.breaker = Breaker()
        self.figures = NodeFigures(node)
        self.means: dict[tuple[str, str], Mean] = {}  # by revision and part
        self.hungry: dict[_Request, None] = {}  # those that wait for a credit of it, and were not woken


@dataclass(slots=True)
class _Pending:
    """A part that has not answered yet."""

    wanted: Wanted
    under_way: list[_Ask] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    why: dict[str, None] = field(default_factory=dict)  # in the order it was noticed
    hedged: bool = False
    again: bool = False


class _Request:
    """One scatter. ``wake`` gets something whenever there is something to do for the caller's thread."""

    __slots__ = ("due", "found", "hungry", "load", "missing", "pending", "revision", "trace", "wake")

    def __init__(self, revision: str, load: Load, wanted: Sequence[Wanted], due: float, trace: str | None) -> None:
        self.revision, self.load, self.due = revision, load, due
        self.trace = f',"trace":"{trace}"' if trace else ""
        self.pending = {one.part: _Pending(one) for one in wanted}
        self.found: dict[str, PartAnswer] = {}
        self.missing: dict[str, str] = {}
        self.hungry: dict[_Peer, None] = {}  # the nodes of which it waits for a credit
        self.wake: SimpleQueue[None] = SimpleQueue()


_ids = itertools.count(int.from_bytes(os.urandom(7)))  # below 2 ** 56, so that 16 hex digits always do


class _Ask:
    """One question to one node."""

    __slots__ = ("asked", "client", "hedge", "id", "incarnation", "node", "over", "request", "wanted")

    def __init__(
        self, client: FleetClient, request: _Request, wanted: Wanted, node: str, incarnation: str, asked: float
    ) -> None:
        self.client, self.request, self.wanted = client, request, wanted
        self.node, self.incarnation, self.asked = node, incarnation, asked
        self.id = f"{next(_ids):016x}"
        self.hedge = self.over = False

    def took(self, answer: Answer) -> None:
        """On a thread of the bus."""
        now = time.perf_counter()
        if self.over:
            self.client._replayed(self)
        elif answer.refused is not None:
            self.client._refused(self, " ".join(answer.refused[:SAID].split()) or "refused", now)
        else:
            try:
                found = checked(answer, self.id, self.wanted, self.request.load.rows)
            except BadMessage as exc:
                self.client._rejected(self, str(exc), now)
            else:
                network_ms = max(0.0, (now - self.asked) * 1e3 - found.queue_ms - found.compute_ms)
                given = PartAnswer(
                    self.wanted.part, self.node, found.array, found.queue_ms, found.compute_ms, network_ms, self.hedge
                )
                self.client._answered(self, given, now)

    def done(self) -> None:
        """On a thread of the bus: no answer follows."""
        if not self.over:
            self.client._silent(self, time.perf_counter())


class FleetClient:
    """A client of all that a bus reaches. Safe to use from several threads: each has its own request under way."""

    def __init__(self, bus: Bus, names: Names) -> None:
        self.names = names
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._peers: dict[str, _Peer] = {}
        self._paces: dict[tuple[str, str], Pace] = {}
        self._routes = Routes()
        self._bus = bus
        self._watches = (bus.watch(names.live(), self._live), bus.watch(names.ready(), self._ready))

    # --- who is there -------------------------------------------------------------------------------------------

    def wait(self, revision: str, parts: Collection[str], timeout_s: float) -> frozenset[str]:
        """Wait until some node serves each of ``parts``, or the time is up. Those that are served."""
        wanted = frozenset(parts)
        with self._lock:
            self._changed.wait_for(lambda: wanted <= self._routes.parts(revision), timeout_s)
            return wanted & self._routes.parts(revision)

    def wait_any(self, revision: str, timeout_s: float) -> bool:
        """Whether within that time some node serves some part."""
        with self._lock:
            return self._changed.wait_for(lambda: bool(self._routes.parts(revision)), timeout_s)

    def replicas(self, revision: str, part: str) -> tuple[str, ...]:
        """The nodes that serve a part."""
        with self._lock:
            return tuple(self._routes.nodes(revision, part))

    def figures(self) -> tuple[NodeFigures, ...]:
        """What was seen of every node that is there or was, by name."""
        now = time.perf_counter()
        with self._lock:
            return tuple(
                replace(peer.figures, owed=len(peer.credits), breaker=peer.breaker.state(now))
                for _, peer in sorted(self._peers.items())
            )

    def close(self) -> None:
        """Stop watching. The bus is the caller's."""
        for watch in self._watches:
            watch.close()

    def _ready(self, key: str, here: bool) -> None:
        _, revision, part, node, incarnation = self.names.steps(key)
        with self._lock:
            self._routes.ready(revision, part, node, incarnation, here)
            self._changed.notify_all()

    def _live(self, key: str, here: bool) -> None:
        _, node, incarnation = self.names.steps(key)
        with self._lock:
            self._routes.live(node, incarnation, here)
            if here:
                self._peer(node).breaker = Breaker()
            else:
                self._departed(node, incarnation)

    # --- asking, in the caller's thread ---------------------------------------------------------------------------

    def scatter(
        self, revision: str, load: Load, wanted: Sequence[Wanted], deadline_s: float, *, trace: str | None = None
    ) -> Gathered:
        """Ask for every part of ``wanted``; what was answered within ``deadline_s``. Returns as soon as all have."""
        request = _Request(revision, load, wanted, time.perf_counter() + deadline_s, trace)
        while request.pending:
            with self._lock:
                asks, until = self._step(request, time.perf_counter())
            for ask in asks:
                self._send(ask)
            if request.pending:
                _sleep(request.wake, until - time.perf_counter())
        return Gathered(request.found, request.missing)

    def _step(self, request: _Request, now: float) -> tuple[list[_Ask], float]:
        """What to ask now, and when to look again at the latest."""
        waited, request.hungry = request.hungry, {}
        for peer in waited:
            peer.hungry.pop(request, None)
        if now >= request.due:
            self._give_up(request, now)
        asks: list[_Ask] = []
        until = request.due
        for part, pending in tuple(request.pending.items()):
            if not pending.under_way:
                asks += self._first(request, part, pending, now)
            if pending.under_way and not pending.hedged:
                first = pending.under_way[0].asked
                at = first + self._pace(request.revision, part).hedge_after(request.due - first)
                if now >= at:
                    asks += self._hedge(request, part, pending, now)
                else:
                    until = min(until, at)
        for peer in request.hungry:
            until = min(until, peer.credits.last_due)  # then it is stuck, and not worth waiting for
        for peer in waited:  # a credit that it was woken for and did not take is the next one's
            self._feed(peer)
        return asks, until

    def _first(self, request: _Request, part: str, pending: _Pending, now: float) -> list[_Ask]:
        """Ask the best replica, and those that are due for a probe. None left: the part is missing, unless one has
        merely no credit at the moment."""
        chosen, behind = self._candidates(request, part, pending, now)
        if not chosen and behind:
            self._wait_for(behind, request)
        elif not chosen:
            del request.pending[part]
            request.missing[part] = "; ".join(pending.why) or "no node has it"
        return [self._ask(request, pending, *one, now) for one in chosen]

    def _hedge(self, request: _Request, part: str, pending: _Pending, now: float) -> list[_Ask]:
        """Ask a second replica: the best, or the first that has a credit again."""
        chosen, behind = self._candidates(request, part, pending, now)
        pending.hedged = bool(chosen) or not behind
        if not pending.hedged:
            self._wait_for(behind, request)
        asks = [self._ask(request, pending, *one, now) for one in chosen]
        for ask in asks:
            ask.hedge = True
            self._peers[ask.node].figures.hedged += 1
        return asks

    @staticmethod
    def _wait_for(peers: Sequence[_Peer], request: _Request) -> None:
        """Wake the request when one of these may be asked again."""
        for peer in peers:
            request.hungry[peer] = peer.hungry[request] = None

    def _candidates(
        self, request: _Request, part: str, pending: _Pending, now: float
    ) -> tuple[list[tuple[str, str]], list[_Peer]]:
        """(node, incarnation) of the replicas to ask: the best that may be asked, and those that are due for a probe,
        by the breaker or because all they owe is overdue. And the replicas that are only out of credits."""
        asked = {ask.node for ask in pending.under_way}
        free: list[tuple[float, str, str]] = []
        probes: list[tuple[str, str]] = []
        behind: list[_Peer] = []
        for node, incarnation in self._routes.nodes(request.revision, part).items():
            if node in pending.tried or node in asked:
                continue
            peer = self._peer(node)
            if not peer.breaker.allows(now) and not self._panic(now):
                pending.why[f"{node} failed too often and is left alone"] = None
            elif peer.breaker.state(now) == "half-open" and peer.breaker.allows(now):
                probes.append((node, incarnation))
            elif peer.credits.free(self._routes.held(node)):
                mean = peer.means.get((request.revision, part))
                free.append(((len(peer.credits) + 1) * (mean.seconds if mean else 0.0), node, incarnation))
            elif peer.credits.stuck(now) and peer.credits.spare(self._routes.held(node)):
                probes.append((node, incarnation))
            elif peer.credits.stuck(now):
                peer.breaker.failed(now)
                pending.why[f"{node} has not answered earlier questions"] = None
            elif now + self._turn_s(peer, request.revision, part) > request.due:
                pending.why[f"{node} is behind with its answers"] = None
            else:
                behind.append(peer)
        best = [(node, incarnation) for _, node, incarnation in sorted(free)[:1]]
        return [*best, *probes], behind

    def _turn_s(self, peer: _Peer, revision: str, part: str) -> float:
        """How long an answer takes about for which a credit must be waited for, behind the others that wait."""
        mean = peer.means.get((revision, part))
        return mean.seconds * (2 + len(peer.hungry) / WINDOW) if mean else 0.0

    def _panic(self, now: float) -> bool:
        """Whether more than half of the nodes would be left alone: then more likely it is us, and nobody is."""
        live = [peer for node, peer in self._peers.items() if self._routes.held(node)]
        return 2 * sum(peer.breaker.state(now) != "closed" for peer in live) > len(live)

    def _ask(self, request: _Request, pending: _Pending, node: str, incarnation: str, now: float) -> _Ask:
        ask = _Ask(self, request, pending.wanted, node, incarnation, now)
        pending.under_way.append(ask)
        peer = self._peers[node]
        peer.credits.take(ask, request.due)
        peer.breaker.asked(now)
        peer.figures.asked += 1
        return ask

    def _send(self, ask: _Ask) -> None:
        request = ask.request
        ask.asked = time.perf_counter()
        left_s = max(0.0, request.due - ask.asked)
        meta = f'{{"id":"{ask.id}",{request.load.said},"left_ms":{left_s * 1e3:.2f}{request.trace}}}'
        self._bus.ask(
            self.names.infer(request.revision, ask.wanted.part, ask.node),
            ask.took,
            ask.done,
            payload=request.load.payload,
            meta=meta.encode(),
            timeout_s=left_s + LATE_S,
        )

    def _give_up(self, request: _Request, now: float) -> None:
        """The deadline: whoever was asked and has not answered missed it."""
        for part, pending in request.pending.items():
            for ask in pending.under_way:
                peer = self._peers[ask.node]
                peer.figures.missed += 1
                peer.breaker.failed(now)
                pending.why[f"{ask.node} did not answer in time"] = None
            request.missing[part] = "; ".join(pending.why) or "its nodes were busy until the deadline"
        request.pending.clear()

    # --- what comes back, on the bus's threads ----------------------------------------------------------------------

    def _answered(self, ask: _Ask, found: PartAnswer, now: float) -> None:
        request, key = ask.request, (ask.request.revision, ask.wanted.part)
        with self._lock:
            peer = self._over(ask, now)
            peer.figures.answered += 1
            self._pace(*key).add(now - ask.asked)
            peer.means.setdefault(key, Mean()).add(now - ask.asked)
            if now > request.due:
                peer.figures.late += 1
                return
            peer.breaker.succeeded()
            if found.part not in request.pending:
                return
            request.found[found.part] = found
            del request.pending[found.part]  # last: the caller's thread takes none pending for the end
            if not request.pending:
                request.wake.put(None)

    def _refused(self, ask: _Ask, reason: str, now: float) -> None:
        with self._lock:
            peer = self._over(ask, now)
            if reason == TOO_LATE:
                peer.figures.late += 1
            elif reason in NOT_NOW:
                peer.figures.busy += 1
            else:
                peer.figures.refused += 1
                if ask.request.load.kind != "image":  # a broken image is not the node's fault
                    self._blame(peer, ask, now)
            self._failed(ask, reason)

    def _rejected(self, ask: _Ask, reason: str, now: float) -> None:
        with self._lock:
            peer = self._over(ask, now)
            peer.figures.rejected += 1
            peer.breaker.failed(now)
            self._failed(ask, reason)

    def _replayed(self, ask: _Ask) -> None:
        with self._lock:
            self._peer(ask.node).figures.replayed += 1

    def _silent(self, ask: _Ask, now: float) -> None:
        """Over without an answer. At the network's own timeout that tells nothing, and the credit stays taken."""
        with self._lock:
            if now >= ask.request.due + LATE_S / 2:
                return
            peer = self._over(ask, now)
            peer.figures.silent += 1
            self._blame(peer, ask, now)
            pending = ask.request.pending.get(ask.wanted.part)
            again = pending is not None and not pending.again and self._routes.is_live(ask.node, ask.incarnation)
            self._failed(ask, "gave no answer", again=again)

    def _blame(self, peer: _Peer, ask: _Ask, now: float) -> None:
        """A failure before the deadline. One after it was counted when the deadline was missed."""
        if now < ask.request.due:
            peer.breaker.failed(now)

    def _departed(self, node: str, incarnation: str) -> None:
        """With the lock held: a node is gone, and with it whatever it owes."""
        peer = self._peer(node)
        for ask in peer.credits.departed(lambda ask: ask.incarnation == incarnation):
            ask.over = True
            self._failed(ask, "is gone")
        for request in peer.hungry:  # none of them waits for it any longer
            request.wake.put(None)
        peer.hungry.clear()

    def _over(self, ask: _Ask, now: float) -> _Peer:
        peer = self._peer(ask.node)
        ask.over = True
        if peer.credits.returned(ask, now):
            self._feed(peer)
        return peer

    def _failed(self, ask: _Ask, reason: str, *, again: bool = False) -> None:
        """Let the caller's thread try elsewhere, or the same node once more (``again``, rule 4)."""
        pending = ask.request.pending.get(ask.wanted.part)
        if pending is None or ask not in pending.under_way:
            return
        pending.under_way.remove(ask)
        pending.why[f"{ask.node}: {reason}"] = None
        pending.again |= again
        if not again:
            pending.tried.add(ask.node)
        ask.request.wake.put(None)

    def _feed(self, peer: _Peer) -> None:
        """A credit may be free: wake the request that has least time left, and no other. To wake all that wait at every
        answer cost more than the answers themselves."""
        if peer.hungry and peer.credits.free(self._routes.held(peer.figures.node)):
            request = min(peer.hungry, key=lambda one: one.due)
            del peer.hungry[request]
            request.wake.put(None)

    def _peer(self, node: str) -> _Peer:
        found = self._peers.get(node)
        if found is None:
            found = self._peers[node] = _Peer(node)
        return found

    def _pace(self, revision: str, part: str) -> Pace:
        found = self._paces.get((revision, part))
        if found is None:
            found = self._paces[revision, part] = Pace()
        return found


def _sleep(wake: SimpleQueue[None], seconds: float) -> None:
    try:
        wake.get(timeout=max(0.0, seconds))
    except Empty:
        return
