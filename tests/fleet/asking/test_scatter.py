"""The client's state machine: what happens goes in, questions come out. No thread, no clock and no bus."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.fleet.asking.credits import MOST, WINDOW
from edgevit.fleet.asking.questions import Load, PartAnswer, Wanted
from edgevit.fleet.asking.scatter import LATE_S, Outcome, Refused, Rejected, Scatter, Silent
from edgevit.fleet.asking.under_way import Ask, Request

REVISION = "a" * 64


class Driver:
    """What a client does with the machine, one thing after another: who is woken is looked at at once, and everyone at
    the time that the machine said."""

    def __init__(self) -> None:
        numbers = itertools.count()
        self.machine = Scatter(lambda: f"{next(numbers):016x}")
        self.now = 100.0
        self.asks: list[Ask] = []
        self.until: dict[Request, float] = {}  # of those that are not over
        self.looks: list[Request] = []

    def serve(self, node: str, *parts: str, incarnation: str = "one") -> None:
        self.look(self.machine.live(node, incarnation, True))
        for part in parts:
            self.look(self.machine.ready(REVISION, part, node, incarnation, True))

    def gone(self, node: str, *parts: str, incarnation: str = "one") -> None:
        for part in parts:
            self.look(self.machine.ready(REVISION, part, node, incarnation, False))
        self.look(self.machine.live(node, incarnation, False))

    def ask(self, *parts: str, deadline_s: float = 10.0) -> Request:
        wanted = [Wanted(part, (2,)) for part in parts]
        request = Request(REVISION, Load("tensor", b""), wanted, self.now + deadline_s, lambda: None)
        self.until[request] = self.now
        self.look([request])
        return request

    def look(self, woken: Iterable[Request]) -> None:
        waiting = list(woken)
        while waiting:
            request = waiting.pop(0)
            if request not in self.until:
                continue
            self.looks.append(request)
            turn = self.machine.look(request, self.now)
            self.asks += turn.asks
            self.until[request] = turn.until
            waiting += turn.woken
            self.forget_those_that_are_over()

    def forget_those_that_are_over(self) -> None:
        for request in [one for one in self.until if not one.pending]:
            del self.until[request]

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.until and min(self.until.values()) <= end:
            request = min(self.until, key=lambda one: self.until[one])
            self.now = max(self.now + 1e-6, self.until[request])  # a clock goes on
            self.look([request])
        self.now = end

    def came(self, ask: Ask, outcome: Outcome) -> None:
        woken = self.machine.came(ask, outcome, self.now)
        self.forget_those_that_are_over()
        self.look(woken)

    def answer(self, ask: Ask) -> None:
        self.came(ask, PartAnswer(ask.wanted.part, ask.node, np.zeros((1, 2), np.float32), 0.0, 0.0, 0.0, ask.hedge))

    def asked(self, request: Request) -> list[str]:
        return [one.node for one in self.asks if one.request is request]

    def owed(self, node: str) -> int:
        return len(self.machine.peer(node).credits)


@pytest.fixture
def fleet() -> Driver:
    return Driver()


def test_one_replica_of_every_part_is_asked_and_its_answer_ends_the_request(fleet: Driver) -> None:
    fleet.serve("a", "p", "q")
    fleet.serve("b", "p")
    request = fleet.ask("p", "q")
    assert sorted(one.wanted.part for one in fleet.asks) == ["p", "q"]
    for ask in list(fleet.asks):
        fleet.answer(ask)
    assert (set(request.found), request.missing, request.pending) == ({"p", "q"}, {}, {})
    assert (fleet.owed("a"), fleet.owed("b")) == (0, 0)


def test_the_replica_that_is_expected_to_be_quickest_is_asked(fleet: Driver) -> None:
    fleet.serve("a", "p")
    for seconds in (0.5, 0.5):
        fleet.ask("p")
        fleet.wait(seconds)
        fleet.answer(fleet.asks[-1])
    fleet.serve("b", "p")
    assert fleet.asked(fleet.ask("p")) == ["b"], "one that is not known yet"


@pytest.mark.parametrize("outcome", [Refused("busy"), Refused("broken"), Rejected("answers NaN")])
def test_what_is_no_answer_sends_the_question_to_the_next_replica_and_is_told_when_there_is_none(
    fleet: Driver, outcome: Refused | Rejected
) -> None:
    fleet.serve("a", "p")
    fleet.serve("b", "p")
    request = fleet.ask("p")
    fleet.came(fleet.asks[0], outcome)
    assert fleet.asked(request) == ["a", "b"]
    fleet.came(fleet.asks[1], outcome)
    assert request.missing == {"p": f"a: {outcome.reason}; b: {outcome.reason}"}
    assert (fleet.owed("a"), fleet.owed("b")) == (0, 0)


def test_silence_of_a_node_that_is_there_is_asked_once_more_and_only_once(fleet: Driver) -> None:
    fleet.serve("a", "p")
    request = fleet.ask("p")
    fleet.came(fleet.asks[0], Silent())
    assert fleet.asked(request) == ["a", "a"]
    fleet.came(fleet.asks[1], Silent())
    assert request.missing == {"p": "a: gave no answer"}


def test_a_node_that_is_gone_owes_nothing_and_its_questions_go_elsewhere(fleet: Driver) -> None:
    fleet.serve("a", "p")
    request = fleet.ask("p")
    fleet.serve("b", "p")
    fleet.gone("a", "p")
    assert fleet.asked(request) == ["a", "b"]
    assert fleet.owed("a") == 0
    fleet.answer(fleet.asks[0])
    assert "p" in request.pending, "an answer of one that is gone is a replay"
    fleet.answer(fleet.asks[1])
    assert request.found["p"].node == "b"


def test_the_keys_of_an_earlier_run_may_go_without_harm(fleet: Driver) -> None:
    fleet.serve("a", "p", incarnation="one")
    fleet.serve("a", "p", incarnation="two")
    request = fleet.ask("p")
    fleet.gone("a", "p", incarnation="one")
    assert fleet.owed("a") == 1
    fleet.answer(fleet.asks[0])
    assert request.found["p"].node == "a"


def test_half_way_to_the_deadline_a_second_replica_is_asked_and_the_first_answer_counts(fleet: Driver) -> None:
    fleet.serve("a", "p")
    fleet.serve("b", "p")
    request = fleet.ask("p", deadline_s=1.0)
    fleet.wait(0.49)
    assert len(fleet.asks) == 1
    fleet.wait(0.02)
    assert [one.hedge for one in fleet.asks] == [False, True]
    first, hedge = fleet.asks
    fleet.answer(hedge)
    assert request.found["p"].hedged
    fleet.answer(first)
    assert request.found["p"].node == hedge.node, "the other is too late to count, and gives its credit back"
    assert (fleet.owed("a"), fleet.owed("b")) == (0, 0)


def test_what_has_not_answered_at_the_deadline_is_missing_and_its_credit_comes_back_with_the_answer(
    fleet: Driver,
) -> None:
    fleet.serve("a", "p")
    request = fleet.ask("p", deadline_s=1.0)
    fleet.wait(1.0)
    assert request.missing == {"p": "a did not answer in time"}
    assert fleet.owed("a") == 1
    fleet.wait(1.0)
    fleet.answer(fleet.asks[0])
    assert not request.found
    (figures,) = fleet.machine.figures(fleet.now)
    assert (figures.answered, figures.late, figures.missed, figures.owed) == (1, 1, 1, 0)


def test_silence_at_the_networks_own_timeout_tells_nothing_and_keeps_the_credit(fleet: Driver) -> None:
    fleet.serve("a", "p")
    fleet.ask("p", deadline_s=1.0)
    fleet.wait(1.0 + LATE_S)
    fleet.came(fleet.asks[0], Silent())
    assert fleet.owed("a") == 1


def test_without_a_credit_a_request_waits_and_one_answer_wakes_one_request(fleet: Driver) -> None:
    fleet.serve("a", "p")
    *_, third, fourth = requests = [fleet.ask("p", deadline_s=10.0 + number) for number in range(4)]
    assert [len(fleet.asked(one)) for one in requests] == [1, 1, 0, 0]
    fleet.looks.clear()
    fleet.answer(fleet.asks[0])
    assert fleet.looks == [third], "the one that has least time left"
    assert [len(fleet.asked(one)) for one in (third, fourth)] == [1, 0]


def test_a_request_that_is_over_leaves_the_credit_that_it_waited_for_to_the_next(fleet: Driver) -> None:
    fleet.serve("a", "p")
    hedging = fleet.ask("p", deadline_s=4.0)
    fleet.serve("b", "p", "q")
    for _ in range(WINDOW):
        fleet.ask("q", deadline_s=20.0)
    fleet.wait(2.5)  # it wants to ask b too, which has no credit
    waiting = fleet.ask("q", deadline_s=30.0)
    assert (fleet.asked(hedging), fleet.asked(waiting)) == (["a"], [])
    fleet.answer(fleet.asks[0])
    assert not hedging.pending
    fleet.answer(next(one for one in fleet.asks if one.node == "b"))
    assert fleet.asked(waiting) == ["b"]


def test_a_credit_that_a_request_was_woken_for_and_did_not_take_is_the_next_ones(fleet: Driver) -> None:
    fleet.serve("a", "p")
    *_, third, fourth = [fleet.ask("p", deadline_s=10.0 + number) for number in range(4)]
    fleet.wait(0.5)
    fleet.serve("b", "p")  # unknown yet, and so expected to be quicker
    fleet.answer(fleet.asks[0])
    assert (fleet.asked(third), len(fleet.asked(fourth))) == (["b"], 1)


def test_who_leaves_takes_no_answer_and_holds_no_credit_that_others_wait_for(fleet: Driver) -> None:
    fleet.serve("a", "p")
    leaving, _, staying = fleet.ask("p"), fleet.ask("p"), fleet.ask("p")
    fleet.look(fleet.machine.leave(leaving))
    fleet.answer(fleet.asks[0])
    assert not leaving.found
    assert fleet.asked(staying) == ["a"]


def test_a_node_that_serves_one_part_more_may_be_asked_more_at_once(fleet: Driver) -> None:
    fleet.serve("a", "p", "q")
    *_, third = (fleet.ask("p") for _ in range(WINDOW + 1))
    assert fleet.asked(third) == []
    fleet.serve("a", "r")
    assert fleet.asked(third) == ["a"]


# --- whatever happens, in whatever order -----------------------------------------------------------------------------

NODES = {"a": ("p", "q"), "b": ("p",), "c": ("q", "r"), "d": ("p", "q", "r")}
VERBS = ("ask", "ask", "wait", "answer", "answer", "refuse", "reject", "silent", "replay", "gone", "back")
happenings = st.lists(
    st.tuples(st.sampled_from(VERBS), st.integers(0, 30), st.floats(0.01, 2.0)), min_size=1, max_size=80
)


class Watched(Driver):
    """Looks at every question, and at every state between two happenings."""

    def look(self, woken: Iterable[Request]) -> None:
        before = len(self.asks)
        super().look(woken)
        for ask in self.asks[before:]:
            assert self.now < ask.request.due, "no question after the deadline"
            assert ask.wanted.part in NODES[ask.node]
            same = [one for one in self.asks if one.request is ask.request and one.wanted == ask.wanted]
            assert sum(one.node == ask.node for one in same) <= 2, "the same node once more at the most"
        for node, parts in NODES.items():
            self.see(node, max(WINDOW, len(parts)))
        for request in {one.request for one in self.asks}:
            outcomes = [*request.found, *request.missing, *request.pending]
            assert len(outcomes) == len(set(outcomes)), "every part is found, missing or pending"

    def see(self, node: str, window: int) -> None:
        peer, held = self.machine.peer(node), self.machine.routes.held(node)
        probed = peer.breaker.state(self.now) != "closed"
        assert len(peer.credits) <= (MOST + 1 if probed else window + 1), "one beyond the window, and those of probes"
        assert set(peer.credits.owed) <= {one for one in self.asks if not one.over}, "no credit of what is over"
        assert not (peer.hungry and held and peer.credits.free(held)), "a free credit, and somebody waits for one"
        assert peer.hungry.keys() <= self.until.keys(), "who is over waits for nothing"


@given(happenings)
@settings(max_examples=200, deadline=None)
def test_every_part_is_answered_or_missing_once_and_no_credit_is_lost_or_made(happenings) -> None:
    fleet, live, requests = Watched(), set(NODES), []
    for node, parts in NODES.items():
        fleet.serve(node, *parts)
    for verb, which, seconds in happenings:
        open_asks = [one for one in fleet.asks if not one.over]
        ask = open_asks[which % len(open_asks)] if open_asks else None
        node = "abcd"[which % 4]
        if verb == "ask":
            wanted = [part for bit, part in enumerate("pqr") if (which % 7 + 1) >> bit & 1]
            requests.append((fleet.ask(*wanted, deadline_s=seconds), set(wanted)))
        elif verb == "wait":
            fleet.wait(seconds)
        elif verb == "replay" and any(one.over for one in fleet.asks):
            fleet.answer(next(one for one in fleet.asks if one.over))
        elif verb == "gone" and node in live:
            live.remove(node)
            fleet.gone(node, *NODES[node])
        elif verb == "back" and node not in live:
            live.add(node)
            fleet.serve(node, *NODES[node])
        elif ask is not None and verb == "answer":
            fleet.answer(ask)
        elif ask is not None and verb in ("refuse", "reject", "silent"):
            outcomes = {"refuse": Refused("busy"), "reject": Rejected("answers NaN"), "silent": Silent()}
            fleet.came(ask, outcomes[verb])
    fleet.wait(5.0)
    assert not fleet.until, "at its deadline every request is over"
    for request, wanted in requests:
        assert request.found.keys() | request.missing.keys() == wanted
        assert not request.found.keys() & request.missing.keys()
    for one in [one for one in fleet.asks if not one.over]:
        fleet.answer(one)
    assert [fleet.owed(node) for node in NODES] == [0, 0, 0, 0], "all credits are back once all have answered"
