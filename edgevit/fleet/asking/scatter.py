"""Whom to ask for a model's parts, and what to make of what comes back: a client's whole state, as a pure machine.

It is told what happens (announcements, answers, refusals, silence, and that a request is looked at), each with the
time, and says what to do: the questions to ask, when to look again, and which other requests to look at now. It knows
no thread, no clock and no bus.

One question a part, to the replica that has a credit and is expected to be quickest. A refusal, an answer that is not
what was asked for, silence, or the node's departure send the question to the next replica with the time that is left;
so does slowness, beyond the 95th percentile of that part. A node that keeps failing is left alone for a while
(breaker.py). What has not answered at the deadline is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from edgevit.fleet.asking.breaker import Breaker
from edgevit.fleet.asking.credits import WINDOW
from edgevit.fleet.asking.pace import Mean, Pace
from edgevit.fleet.asking.questions import PartAnswer
from edgevit.fleet.asking.routes import Routes
from edgevit.fleet.asking.under_way import Ask, NodeFigures, Peer, Pending, Request

LATE_S = 10.0  # how long after its deadline an answer is still waited for, to have its credit back
NOT_NOW, TOO_LATE = ("busy", "leaving"), "late"  # refusals of a node that is well, and of one that is too slow

Replica = tuple[str, str]  # node, incarnation
Standing = Literal["free", "probe", "behind", "out"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A node's refusal, and its reason in one line."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An answer that is not what was asked for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer follows."""


Outcome = PartAnswer | Refused | Rejected | Silent
Woken = tuple[Request, ...]  # those that are to be looked at now


@dataclass(frozen=True, slots=True)
class Turn:
    """What there is to do for a request: ask these, and look again at ``until`` at the latest, unless it is over."""

    asks: tuple[Ask, ...]
    until: float
    woken: Woken


class Scatter:
    """Of one client. ``new_id`` gives a question's id; no two of this process may be the same."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._peers: dict[str, Peer] = {}
        self._paces: dict[tuple[str, str], Pace] = {}
        self._woken: dict[Request, None] = {}  # by what is being told just now
        self.routes = Routes()

    def peer(self, node: str) -> Peer:
        found = self._peers.get(node)
        if found is None:
            found = self._peers[node] = Peer(node)
        return found

    def pace(self, revision: str, part: str) -> Pace:
        found = self._paces.get((revision, part))
        if found is None:
            found = self._paces[revision, part] = Pace()
        return found

    def figures(self, now: float) -> tuple[NodeFigures, ...]:
        """What was seen of every node that is there or was, by name."""
        return tuple(
            replace(peer.figures, owed=len(peer.credits), breaker=peer.breaker.state(now))
            for _, peer in sorted(self._peers.items())
        )

    # --- who is there ------------------------------------------------------------------------------------------------

    def ready(self, revision: str, part: str, node: str, incarnation: str, here: bool) -> Woken:
        """A part is served by a node, or no longer. Who serves more may be asked more at once."""
        self.routes.ready(revision, part, node, incarnation, here)
        if node in self._peers:
            self._feed((self._peers[node],))
        return self._told()

    def live(self, node: str, incarnation: str, here: bool) -> Woken:
        """A node is there, or gone, and with it whatever it owes."""
        self.routes.live(node, incarnation, here)
        peer = self.peer(node)
        if here:
            peer.breaker = Breaker()
            return ()
        for ask in peer.credits.departed(lambda ask: ask.incarnation == incarnation):
            ask.over = True
            self._failed(ask, "is gone")
        for request in peer.hungry:  # none of them waits for it any longer
            self._woken[request] = None
        peer.hungry.clear()
        return self._told()

    # --- what to ask -------------------------------------------------------------------------------------------------

    def look(self, request: Request, now: float) -> Turn:
        """What to ask for a request now: one that is new, that was woken, or whose ``until`` has come."""
        waited, request.hungry = request.hungry, {}
        for peer in waited:
            peer.hungry.pop(request, None)
        if now >= request.due:
            self._give_up(request, now)
        asks: list[Ask] = []
        until = request.due
        for part, pending in tuple(request.pending.items()):
            if not pending.under_way:
                asks += self._first(request, part, pending, now)
            if pending.under_way and not pending.hedged:
                first = pending.under_way[0].asked
                at = first + self.pace(request.revision, part).hedge_after(request.due - first)
                if now >= at:
                    asks += self._hedge(request, pending, now)
                else:
                    until = min(until, at)
        for peer in request.hungry:
            until = min(until, peer.credits.last_due)  # then it is stuck, and not worth waiting for
        self._feed(waited)  # a credit that it was woken for and did not take is the next one's
        return Turn(tuple(asks), until, self._told())

    def leave(self, request: Request) -> Woken:
        """Nobody waits for a request any longer, whether it is over or not."""
        request.pending.clear()
        self._sated(request)
        return self._told()

    def _first(self, request: Request, part: str, pending: Pending, now: float) -> list[Ask]:
        """Ask the best replica, and those that are due for a probe. None left: the part is missing, unless one has
        merely no credit at the moment."""
        chosen, behind = self._candidates(request, pending, now)
        if not chosen and behind:
            self._wait_for(behind, request)
        elif not chosen:
            del request.pending[part]
            request.missing[part] = "; ".join(pending.why) or "no node has it"
        return [self._ask(request, pending, *one, now) for one in chosen]

    def _hedge(self, request: Request, pending: Pending, now: float) -> list[Ask]:
        """Ask a second replica: the best, or the first that has a credit again."""
        chosen, behind = self._candidates(request, pending, now)
        pending.hedged = bool(chosen) or not behind
        if not pending.hedged:
            self._wait_for(behind, request)
        asks = [self._ask(request, pending, *one, now) for one in chosen]
        for ask in asks:
            ask.hedge = True
            self._peers[ask.node].figures.hedged += 1
        return asks

    def _candidates(self, request: Request, pending: Pending, now: float) -> tuple[list[Replica], list[Peer]]:
        """The replicas to ask: the best that may be asked, and those that are due for a probe, by the breaker or
        because all they owe is overdue. And those that are only out of credits."""
        key = (request.revision, pending.wanted.part)
        asked = {ask.node for ask in pending.under_way}
        free: list[tuple[float, Replica]] = []
        probes: list[Replica] = []
        behind: list[Peer] = []
        for node, incarnation in self.routes.nodes(*key).items():
            if node in pending.tried or node in asked:
                continue
            peer = self.peer(node)
            standing, why = self._standing(peer, key, request.due, now)
            if standing == "free":
                mean = peer.means.get(key)
                free.append(((len(peer.credits) + 1) * (mean.seconds if mean else 0.0), (node, incarnation)))
            elif standing == "probe":
                probes.append((node, incarnation))
            elif standing == "behind":
                behind.append(peer)
            else:
                pending.why[f"{node} {why}"] = None
        return [*(replica for _, replica in sorted(free)[:1]), *probes], behind

    def _standing(self, peer: Peer, key: tuple[str, str], due: float, now: float) -> tuple[Standing, str]:
        """Whether a node may be asked for a part now, and why not."""
        credits, held = peer.credits, self.routes.held(peer.node)
        allowed = peer.breaker.allows(now)
        if not allowed and not self._panic(now):
            return "out", "failed too often and is left alone"
        if allowed and peer.breaker.state(now) == "half-open":
            return "probe", ""
        if credits.free(held):
            return "free", ""
        if credits.stuck(now):
            if credits.spare(held):
                return "probe", ""
            peer.breaker.failed(now)
            return "out", "has not answered earlier questions"
        if now + _turn_s(peer, key) > due:
            return "out", "is behind with its answers"
        return "behind", ""

    def _panic(self, now: float) -> bool:
        """Whether more than half of the nodes would be left alone: then more likely it is us, and nobody is."""
        live = [peer for node, peer in self._peers.items() if self.routes.held(node)]
        return 2 * sum(peer.breaker.state(now) != "closed" for peer in live) > len(live)

    def _ask(self, request: Request, pending: Pending, node: str, incarnation: str, now: float) -> Ask:
        ask = Ask(request, pending.wanted, node, incarnation, self._new_id(), now)
        pending.under_way.append(ask)
        peer = self._peers[node]
        peer.credits.take(ask, request.due)
        peer.breaker.asked(now)
        peer.figures.asked += 1
        return ask

    def _give_up(self, request: Request, now: float) -> None:
        """The deadline: whoever was asked and has not answered missed it."""
        for part, pending in request.pending.items():
            for ask in pending.under_way:
                peer = self._peers[ask.node]
                peer.figures.missed += 1
                peer.breaker.failed(now)
                pending.why[f"{ask.node} did not answer in time"] = None
            request.missing[part] = "; ".join(pending.why) or "its nodes were busy until the deadline"
        request.pending.clear()

    # --- what comes back ---------------------------------------------------------------------------------------------

    def came(self, ask: Ask, outcome: Outcome, now: float) -> Woken:
        """What became of a question. Its first outcome counts; a further answer is counted as a replay."""
        if ask.over:
            self.peer(ask.node).figures.replayed += not isinstance(outcome, Silent)
        elif isinstance(outcome, PartAnswer):
            self._answered(ask, outcome, now)
        elif isinstance(outcome, Refused):
            self._refused(ask, outcome.reason, now)
        elif isinstance(outcome, Rejected):
            peer = self._over(ask, now)
            peer.figures.rejected += 1
            peer.breaker.failed(now)
            self._failed(ask, outcome.reason)
        elif now < ask.request.due + LATE_S / 2:  # else the network's own timeout, which tells nothing
            self._silent(ask, now)
        return self._told()

    def _answered(self, ask: Ask, found: PartAnswer, now: float) -> None:
        request, key = ask.request, (ask.request.revision, ask.wanted.part)
        peer = self._over(ask, now)
        peer.figures.answered += 1
        self.pace(*key).add(now - ask.asked)
        peer.means.setdefault(key, Mean()).add(now - ask.asked)
        if now > request.due:
            peer.figures.late += 1
            return
        peer.breaker.succeeded()
        if found.part not in request.pending:
            return
        request.found[found.part] = found
        del request.pending[found.part]  # last: whoever waits takes none pending for the end
        if not request.pending:
            self._sated(request)
            self._woken[request] = None

    def _refused(self, ask: Ask, reason: str, now: float) -> None:
        peer = self._over(ask, now)
        if reason == TOO_LATE:
            peer.figures.late += 1
        elif reason in NOT_NOW:
            peer.figures.busy += 1
        else:
            peer.figures.refused += 1
            if ask.request.load.kind != "image":  # a broken image is not the node's fault
                _blame(peer, ask, now)
        self._failed(ask, reason)

    def _silent(self, ask: Ask, now: float) -> None:
        """Over without an answer, although the node may be there: then it is asked once more (rule 4)."""
        peer = self._over(ask, now)
        peer.figures.silent += 1
        _blame(peer, ask, now)
        pending = ask.request.pending.get(ask.wanted.part)
        again = pending is not None and not pending.again and self.routes.is_live(ask.node, ask.incarnation)
        self._failed(ask, "gave no answer", again=again)

    def _over(self, ask: Ask, now: float) -> Peer:
        peer = self.peer(ask.node)
        ask.over = True
        if peer.credits.returned(ask, now):
            self._feed((peer,))
        return peer

    def _failed(self, ask: Ask, reason: str, *, again: bool = False) -> None:
        """Try elsewhere with the next look, or the same node once more (``again``)."""
        pending = ask.request.pending.get(ask.wanted.part)
        if pending is None or ask not in pending.under_way:
            return
        pending.under_way.remove(ask)
        pending.why[f"{ask.node}: {reason}"] = None
        pending.again |= again
        if not again:
            pending.tried.add(ask.node)
        self._woken[ask.request] = None

    # --- waiting for credits -----------------------------------------------------------------------------------------

    @staticmethod
    def _wait_for(peers: Iterable[Peer], request: Request) -> None:
        """Wake the request when one of these may be asked again."""
        for peer in peers:
            request.hungry[peer] = peer.hungry[request] = None

    def _feed(self, peers: Iterable[Peer]) -> None:
        """A credit may be free: wake the request that has least time left, and no other. To wake all that wait at every
        answer cost more than the answers themselves."""
        for peer in peers:
            if peer.hungry and peer.credits.free(self.routes.held(peer.node)):
                request = min(peer.hungry, key=lambda one: one.due)
                del peer.hungry[request]
                self._woken[request] = None

    def _sated(self, request: Request) -> None:
        """It waits for no credit any longer; one that it was woken for is the next one's."""
        waited, request.hungry = request.hungry, {}
        for peer in waited:
            peer.hungry.pop(request, None)
        self._feed(waited)

    def _told(self) -> Woken:
        woken, self._woken = self._woken, {}
        return tuple(woken)


def _turn_s(peer: Peer, key: tuple[str, str]) -> float:
    """How long an answer takes about for which a credit must be waited for, behind the others that wait."""
    mean = peer.means.get(key)
    return mean.seconds * (2 + len(peer.hungry) / WINDOW) if mean else 0.0


def _blame(peer: Peer, ask: Ask, now: float) -> None:
    """A failure before the deadline. One after it was counted when the deadline was missed."""
    if now < ask.request.due:
        peer.breaker.failed(now)
