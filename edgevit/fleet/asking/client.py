"""Asks the nodes that hold a model's parts, all at once, and gathers what comes back before the deadline.

What is asked of whom is ``scatter.py``'s; here are its bus, its clock and its lock. The caller's thread runs its own
request; the bus's threads only check an answer and hand it over. The lock guards the machine, and is never held while
the bus is called or an answer is checked.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from edgevit.errors import EdgeVitError
from edgevit.fleet.asking.belief import Belief, Changes, Token
from edgevit.fleet.asking.questions import Gathered, Load, PartAnswer, Wanted, checked
from edgevit.fleet.asking.scatter import LATE_S, Outcome, Refused, Rejected, Scatter, Silent
from edgevit.fleet.asking.under_way import Ask, NodeFigures, Request
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, Placement, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Answer, Bus
from edgevit.fleet.trust.signatures import trusted_keys, trusts

ORDERS_S = 0.02  # after a key that no known order gives, until orders are asked for
ANSWER_S = 2.0  # for them
AGAIN_S, LAST_S = 1.0, 30.0  # until they are asked for again, at first and at most
SAID = 200  # characters of a node's refusal that are kept

_ids = itertools.count(int.from_bytes(os.urandom(7), "big"))  # below 2 ** 56, so that 16 hex digits always do


class FleetClient:
    """A client of all that a bus reaches. Safe to use from several threads: each has its own request under way.

    Over a bus with an identity only those nodes are asked that a trusted operator gave the part (belief.py).
    """

    def __init__(self, bus: Bus, names: Names) -> None:
        self.names = names
        self._bus = bus
        self._lock = threading.Lock()  # of the machine
        self._changed = threading.Condition(self._lock)  # told when a part is announced, or is gone
        self._scatter = Scatter(lambda: f"{next(_ids):016x}")
        self._belief = None if bus.identity is None else Belief()
        self._orders_due = self._closed = False
        self._watches = (bus.watch(names.live(), self._live), bus.watch(names.ready(), self._ready))

    def close(self) -> None:
        """Stop watching. The bus is the caller's."""
        self._closed = True
        for watch in self._watches:
            watch.close()

    # --- who is there -------------------------------------------------------------------------------------------

    def wait(self, revision: str, parts: Collection[str], timeout_s: float) -> frozenset[str]:
        """Wait until some node serves each of ``parts``, or the time is up. Those that are served."""
        wanted = frozenset(parts)
        routes = self._scatter.routes
        with self._lock:
            self._changed.wait_for(lambda: wanted <= routes.parts(revision), timeout_s)
            return wanted & routes.parts(revision)

    def wait_any(self, revision: str, timeout_s: float) -> bool:
        """Whether within that time some node serves some part."""
        with self._lock:
            return self._changed.wait_for(lambda: bool(self._scatter.routes.parts(revision)), timeout_s)

    def replicas(self, revision: str, part: str) -> tuple[str, ...]:
        """The nodes that serve a part."""
        with self._lock:
            return tuple(self._scatter.routes.nodes(revision, part))

    def figures(self) -> tuple[NodeFigures, ...]:
        """What was seen of every node that is there or was, by name."""
        with self._lock:
            return self._scatter.figures(time.perf_counter())

    # --- asking, in the caller's thread ---------------------------------------------------------------------------

    def scatter(
        self, revision: str, load: Load, wanted: Sequence[Wanted], deadline_s: float, *, trace: str | None = None
    ) -> Gathered:
        """Ask for every part of ``wanted``; what was answered within ``deadline_s``. Returns as soon as all have."""
        due = time.perf_counter() + deadline_s
        wake: SimpleQueue[None] = SimpleQueue()
        request = Request(revision, load, wanted, due, partial(wake.put, None))
        said = load.said + (f',"trace":"{trace}"' if trace else "")
        try:
            while request.pending:
                with self._lock:
                    turn = self._scatter.look(request, time.perf_counter())
                for other in turn.woken:
                    other.wake()
                for ask in turn.asks:
                    self._send(ask, said)
                if request.pending:
                    _sleep(wake, turn.until - time.perf_counter())
        except BaseException:
            with self._lock:
                woken = self._scatter.leave(request)
            for other in woken:
                other.wake()
            raise
        return Gathered(request.found, request.missing)

    def _send(self, ask: Ask, said: str) -> None:
        request = ask.request
        ask.asked = time.perf_counter()
        left_s = max(0.0, request.due - ask.asked)
        self._bus.ask(
            self.names.infer(request.revision, ask.wanted.part, ask.node),
            partial(self._took, ask),
            partial(self._came, ask, Silent()),
            payload=request.load.payload,
            meta=f'{{"id":"{ask.id}",{said},"left_ms":{left_s * 1e3:.2f}}}'.encode(),
            timeout_s=left_s + LATE_S,
        )

    # --- on the bus's threads ---------------------------------------------------------------------------------------

    def _ready(self, key: str, here: bool) -> None:
        token, belief = Token(*self.names.steps(key)[1:]), self._belief
        if belief is None:
            self._change(lambda: [(token, here)])
            return
        self._change(lambda: belief.token(token, here))
        if here and belief.doubts(token):
            self._ask_for_orders(ORDERS_S)

    def _change(self, believe: Callable[[], Changes]) -> None:
        woken: list[Request] = []
        with self._lock:
            for token, here in believe():
                woken += self._scatter.ready(*token, here)
            self._changed.notify_all()
        for request in woken:
            request.wake()

    # --- the orders that give parts to nodes ------------------------------------------------------------------------

    def _ask_for_orders(self, pause_s: float) -> None:
        """In a moment, and once for all that is announced until then; again later while something is left in doubt."""
        with self._lock:
            waits, self._orders_due = self._orders_due, True
        if not waits:
            asking = threading.Timer(pause_s, self._ask_now, [pause_s])
            asking.daemon = True
            asking.start()

    def _ask_now(self, pause_s: float) -> None:
        with self._lock:
            self._orders_due = False
        again_s = max(AGAIN_S, 2 * pause_s)

        def done() -> None:
            if self._belief is not None and self._belief.doubtful() and again_s < LAST_S and not self._closed:
                self._ask_for_orders(again_s)

        self._bus.ask(self.names.place(), self._learn, done, timeout_s=ANSWER_S)

    def _learn(self, answer: Answer) -> None:
        try:
            order = parse(Placement, answer.payload, MAX_RECORD)
            known = trusts(order, trusted_keys(self._bus.identity))
        except EdgeVitError:
            return
        if known and (belief := self._belief) is not None:
            self._change(lambda: belief.learned([order]))

    def _live(self, key: str, here: bool) -> None:
        _, node, incarnation = self.names.steps(key)
        with self._lock:
            woken = self._scatter.live(node, incarnation, here)
        for request in woken:
            request.wake()

    def _took(self, ask: Ask, answer: Answer) -> None:
        now = time.perf_counter()
        self._came(ask, _outcome(ask, answer, now), now)

    def _came(self, ask: Ask, outcome: Outcome, now: float | None = None) -> None:
        if ask.over and isinstance(outcome, Silent):  # the end of nearly every question: nothing to tell
            return
        with self._lock:
            woken = self._scatter.came(ask, outcome, time.perf_counter() if now is None else now)
        for request in woken:
            request.wake()


def _outcome(ask: Ask, answer: Answer, now: float) -> Outcome:
    if answer.refused is not None:
        return Refused(" ".join(answer.refused[:SAID].split()) or "refused")
    try:
        found = checked(answer, ask.id, ask.wanted, ask.request.load.rows)
    except BadMessage as exc:
        return Rejected(str(exc))
    network_ms = max(0.0, (now - ask.asked) * 1e3 - found.queue_ms - found.compute_ms)
    times = found.queue_ms, found.compute_ms, network_ms
    return PartAnswer(ask.wanted.part, ask.node, found.array, *times, ask.hedge, found.more)


def _sleep(wake: SimpleQueue[None], seconds: float) -> None:
    try:
        wake.get(timeout=max(0.0, seconds))
    except Empty:
        return
