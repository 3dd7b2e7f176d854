"""The client: its pure rules, and what it makes of good and bad nodes, which are real processes on a real bus."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_for

from edgevit.fleet.asking.breaker import LASTING_S, LIMIT, LONGEST_REST_S, REST_S, Breaker
from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.credits import MOST, WINDOW, Credits
from edgevit.fleet.asking.pace import ENOUGH, KEPT, Mean, Pace
from edgevit.fleet.asking.questions import Load, Wanted, checked
from edgevit.fleet.asking.routes import Routes
from edgevit.fleet.asking.under_way import NodeFigures
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import BadMessage, tensor_bytes
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Answer

REVISION = "a" * 64
FEATURES = 8
LONG_S = 20.0  # a deadline that only a broken client reaches

# --- the rules ------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0


steps = st.lists(
    st.tuples(st.sampled_from(["ask", "answer", "wait", "depart"]), st.integers(0, 12), st.floats(0.01, 3)),
    max_size=60,
)


@given(steps, st.integers(1, 10))
def test_credits_come_back_by_answers_and_departures_and_never_by_time(steps, parts: int) -> None:
    credits: Credits[int] = Credits()
    numbers = itertools.count()
    now, owed, due = 0.0, [], {}
    for verb, which, seconds in steps:
        if verb == "ask" and credits.free(parts):
            question = next(numbers)
            due[question] = now + seconds
            credits.take(question, due[question])
            owed.append(question)
        elif verb == "answer" and owed:
            answered = owed[which % len(owed)]
            assert credits.returned(answered, now)
            assert not credits.returned(answered, now), "a replay returns nothing"
            owed = [one for one in owed if one > answered or (one < answered and due[one] >= now)]
        elif verb == "wait":
            now += seconds
        elif verb == "depart":
            assert set(credits.departed(lambda one: one % 2 == 0)) == {one for one in owed if one % 2 == 0}
            owed = [one for one in owed if one % 2]
        assert list(credits.owed) == owed
        assert len(owed) <= min(max(WINDOW, parts), MOST)
        assert credits.free(parts) == (len(owed) < min(max(WINDOW, parts), MOST))
        assert credits.stuck(now) == (bool(owed) and all(due[one] < now for one in owed))


def test_probes_beyond_the_window_do_not_pile_up() -> None:
    credits: Credits[int] = Credits()
    for question in range(5 * MOST):
        credits.take(question, 0.0)
    assert credits.owed == tuple(range(4 * MOST - 1, 5 * MOST))


def test_a_stuck_node_may_be_asked_one_beyond_its_window() -> None:
    credits: Credits[int] = Credits()
    for question in range(WINDOW + 1):
        assert credits.spare() == (question == WINDOW)
        credits.take(question, 1.0)
    assert credits.stuck(2.0)
    assert not credits.spare()


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_probe_pass_at_a_time() -> None:
    breaker = Breaker()
    for _ in range(3 * LIMIT):
        breaker.failed(0.0)
    assert breaker.state(LASTING_S) == "closed", "a moment in which everything is late opens nothing"
    breaker.succeeded()
    for at in (1.0, 1.0, 1.0 + LASTING_S):
        assert breaker.state(at) == "closed"
        breaker.failed(at)
    opened = 1.0 + LASTING_S
    assert breaker.state(opened) == "open"
    assert not breaker.allows(opened)
    probe = opened + REST_S
    assert breaker.state(probe) == "half-open"
    assert breaker.allows(probe)
    breaker.asked(probe)
    assert not breaker.allows(probe)
    breaker.failed(probe + 0.1)
    assert not breaker.allows(probe + 0.1 + REST_S)
    again = probe + 0.1 + 2 * REST_S
    assert breaker.allows(again)
    breaker.asked(again)
    breaker.succeeded()
    assert breaker.state(again) == "closed"


@given(st.lists(st.tuples(st.sampled_from(["fail", "good", "ask"]), st.floats(0, 2)), max_size=80))
def test_whatever_happens_an_open_breaker_lets_a_probe_pass_within_its_longest_rest(steps) -> None:
    breaker, now = Breaker(), 0.0
    for verb, seconds in steps:
        now += seconds
        if verb == "fail":
            breaker.failed(now)
        elif verb == "good":
            breaker.succeeded()
        elif breaker.allows(now):
            breaker.asked(now)
        assert breaker.allows(now + LONGEST_REST_S)
        assert breaker.allows(now) or breaker.state(now) != "closed"


keys = st.tuples(st.sampled_from("rs"), st.sampled_from("pq"), st.sampled_from("nm"), st.sampled_from("ij"))


@given(st.lists(st.tuples(keys, st.booleans()), max_size=60))
def test_routes_are_the_announced_keys_and_nothing_else(changes) -> None:
    routes, model = Routes(), {}
    for key, here in changes:
        routes.ready(*key, here)
        model.pop(key, None) if not here else model.setdefault(key)
        for revision in "rs":
            assert routes.parts(revision) == {key[1] for key in model if key[0] == revision}
            for part in "pq":
                expected = {node: inc for r, p, node, inc in model if (r, p) == (revision, part)}
                assert routes.nodes(revision, part) == expected, "the newest incarnation counts"
        for node in "nm":
            assert routes.held(node) == len({key[:2] for key in model if key[2] == node})


def test_one_slow_answer_makes_no_node_slow_and_many_do() -> None:
    mean = Mean()
    for _ in range(3):
        mean.add(0.01)
    mean.add(0.4)
    assert mean.seconds == pytest.approx(0.014)
    for _ in range(40):
        mean.add(0.4)
    assert mean.seconds == pytest.approx(0.4, rel=0.02)
    for _ in range(20):
        mean.add(0.01)
    assert mean.seconds == pytest.approx(0.01, rel=0.5)


@given(st.lists(st.floats(0.001, 5), max_size=2 * KEPT))
def test_a_second_replica_is_asked_after_the_95th_percentile_of_the_newest_answers(seconds: list[float]) -> None:
    pace = Pace()
    for one in seconds:
        pace.add(one)
    if len(seconds) < ENOUGH:
        assert pace.hedge_after(0.2) == pytest.approx(0.1)
    elif len(seconds) % 16 == 0 or len(seconds) <= ENOUGH:
        kept = sorted(seconds[-KEPT:])
        assert sum(one <= pace.hedge_after(0.2) for one in kept) >= 0.95 * len(kept) - 1


GOOD = {"id": "0" * 16, "tensor": {"dtype": "float32", "shape": [2, 3]}, "queue_ms": 0.0, "compute_ms": 1.0}
values = st.one_of(
    st.none(), st.integers(-2, 3), st.floats(), st.text(max_size=4), st.lists(st.integers(0, 9), max_size=7)
)


@given(
    st.dictionaries(st.sampled_from(["id", "tensor", "queue_ms", "compute_ms", "more"]), values, max_size=2),
    st.dictionaries(st.sampled_from(["dtype", "shape", "more"]), values, max_size=2),
    st.one_of(st.just(bytes(24)), st.binary(max_size=30)),
)
def test_an_answer_is_what_was_asked_for_or_a_bad_message(changes, tensor, payload: bytes) -> None:
    said = GOOD | {"tensor": GOOD["tensor"] | tensor} | changes
    try:
        meta = json.dumps(said).encode()
        found = checked(Answer("key", payload, meta), "0" * 16, Wanted("part-1", (3,)), 2)
    except BadMessage:
        return
    assert found.array.shape == (2, 3)
    assert np.isfinite(found.array).all()
    assert said["id"] == "0" * 16


SEVERAL = Wanted("model", (1,), more=(((2,), ("int64",)), ((), ("bool",))))


def several(payload: bytes, *more: dict[str, object]) -> Answer:
    """One row of a float, of two integers and of a boolean; ``more`` instead of the last two."""
    others = more or ({"dtype": "int64", "shape": [1, 2]}, {"dtype": "bool", "shape": [1]})
    said = GOOD | {"tensor": {"dtype": "float32", "shape": [1, 1]}, "more": list(others)}
    return Answer("key", payload, json.dumps(said).encode())


def test_all_outputs_of_a_single_artifact_come_in_one_answer() -> None:
    whole = np.float32([0.5]).tobytes() + np.int64([7, 8]).tobytes() + b"\1"
    found = checked(several(whole), "0" * 16, SEVERAL, 1)
    assert [one.tolist() for one in (found.array, *found.more)] == [[[0.5]], [[7, 8]], [True]]


@pytest.mark.parametrize(
    ("payload", "more"),
    [
        (bytes(20), ()),
        (bytes(22), ()),
        (bytes(20) + b"\2", ()),
        (bytes(20), ({"dtype": "int64", "shape": [1, 2]},)),
        (bytes(21), ({"dtype": "bool", "shape": [1]}, {"dtype": "int64", "shape": [1, 2]})),
        (np.float32([np.nan]).tobytes() + bytes(17), ()),
    ],
    ids=["short", "long", "no boolean", "too few", "another order", "NaN"],
)
def test_several_tensors_that_are_not_what_was_asked_for_are_a_bad_message(payload: bytes, more) -> None:
    with pytest.raises(BadMessage):
        checked(several(payload, *more), "0" * 16, SEVERAL, 1)


@given(st.binary(max_size=200))
def test_any_bytes_instead_of_json_are_a_bad_message(meta: bytes) -> None:
    with pytest.raises(BadMessage):
        checked(Answer("key", bytes(24), meta), "0" * 16, Wanted("part-1", (3,)), 2)


# --- a bus, and nodes on it -------------------------------------------------------------------------------------------


class Node:
    """A process of ``odd_node``."""

    def __init__(self, name: str, parts: str, behaviour: str, features: int) -> None:
        command = [sys.executable, str(Path(__file__).parents[1] / "odd_node.py"), name, REVISION, parts, behaviour]
        self.process = subprocess.Popen(
            [*command, str(features)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def up(self) -> Node:
        assert self.process.stdout
        assert self.process.stdout.readline() == "up\n"
        return self

    def become(self, behaviour: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(behaviour + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "changed\n"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        with self.process as process:
            process.kill()


Start = Callable[..., list[Node]]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))


@pytest.fixture
def start() -> Iterator[Start]:
    """Start nodes, given as (name, parts, behaviour); all are up when it returns."""
    running: list[Node] = []

    def start(*nodes: tuple[str, str, str], features: int = FEATURES) -> list[Node]:
        new = [Node(*one, features) for one in nodes]
        running.extend(new)
        return [one.up() for one in new]

    yield start
    for one in running:
        one.end()


@pytest.fixture
def client() -> Iterator[FleetClient]:
    bus = open_bus(Link(), "client")
    client = FleetClient(bus, Names())
    yield client
    client.close()
    bus.close()


def ask(client: FleetClient, *parts: str, deadline_s: float = LONG_S, rows: int = 1):
    said, data = tensor_bytes(np.zeros((rows, 3, 8, 8), np.float32))
    load = Load("tensor", data, said, rows=rows)
    return client.scatter(REVISION, load, [Wanted(part, (FEATURES,)) for part in parts], deadline_s)


def ready(client: FleetClient, *parts: str, nodes: int = 1) -> None:
    """Wait until so many nodes serve each part."""
    assert client.wait(REVISION, parts, 10.0) == set(parts)
    wait_for(lambda: all(len(client.replicas(REVISION, part)) >= nodes for part in parts))


def of(client: FleetClient, node: str) -> NodeFigures:
    return next(one for one in client.figures() if one.node == node)


def test_every_part_answers_and_the_time_is_split(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1,part-3", "good"), ("node-2", "part-2", "good"))
    parts = ("part-1", "part-2", "part-3")
    ready(client, *parts)
    gathered = ask(client, *parts, rows=3)
    assert not gathered.missing
    assert {part: one.node for part, one in gathered.found.items()} == {
        "part-1": "node-1",
        "part-2": "node-2",
        "part-3": "node-1",
    }
    for part, one in gathered.found.items():
        np.testing.assert_array_equal(one.array, np.full((3, FEATURES), int(part[-1]), np.float32))
        assert (one.queue_ms, one.compute_ms) == (0.1, 0.2)
        assert one.ms == pytest.approx(0.3 + one.network_ms)


def test_a_part_that_no_node_has_is_missing_at_once(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1", "good"))
    ready(client, "part-1")
    gathered = ask(client, "part-1", "part-2")
    assert set(gathered.found) == {"part-1"}
    assert gathered.missing == {"part-2": "no node has it"}


@pytest.mark.parametrize(
    ("behaviour", "said", "counted"),
    [
        ("shape", "float32 1×9", "rejected"),
        ("dtype", "dtype", "rejected"),
        ("nan", "NaN", "rejected"),
        ("replay", "another question", "rejected"),
        ("busy", "busy", "busy"),
        ("broken", "RuntimeError: broken", "refused"),
        ("silent", "no answer", "silent"),
    ],
)
def test_a_bad_answer_is_counted_and_the_next_replica_is_asked_within_the_same_deadline(
    client: FleetClient, start: Start, behaviour: str, said: str, counted: str
) -> None:
    _, good = start(("node-a", "part-1", behaviour), ("node-b", "part-1", "good"))
    ready(client, "part-1", nodes=2)
    gathered = ask(client, "part-1")
    assert gathered.found["part-1"].node == "node-b"
    assert getattr(of(client, "node-a"), counted) >= 1
    good.end()
    wait_for(lambda: client.replicas(REVISION, "part-1") == ("node-a",))
    gathered = ask(client, "part-1")
    assert not gathered.found
    assert "node-a" in gathered.missing["part-1"]
    assert said in gathered.missing["part-1"]


def test_a_second_answer_to_a_question_is_counted_and_ignored(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1", "twice"))
    ready(client, "part-1")
    assert not ask(client, "part-1").missing
    wait_for(lambda: of(client, "node-1").replayed == 1)
    assert (of(client, "node-1").answered, of(client, "node-1").owed) == (1, 0)


def test_silence_of_a_node_that_is_there_is_asked_once_more(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1", "once-silent"))
    ready(client, "part-1")
    assert not ask(client, "part-1").missing
    assert (of(client, "node-1").asked, of(client, "node-1").silent) == (2, 1)


def test_a_killed_node_ends_the_wait_long_before_the_deadline(client: FleetClient, start: Start) -> None:
    mute, _ = start(("node-1", "part-1", "mute"), ("node-2", "part-2", "good"))
    ready(client, "part-1", "part-2")
    threading.Timer(0.2, mute.signal, [signal.SIGKILL]).start()
    began = time.monotonic()
    gathered = ask(client, "part-1", "part-2")
    assert time.monotonic() - began < LONG_S / 2
    assert set(gathered.found) == {"part-2"}
    assert "node-1" in gathered.missing["part-1"]
    assert of(client, "node-1").owed == 0


def test_a_killed_node_s_question_goes_to_its_replica(client: FleetClient, start: Start) -> None:
    mute, _ = start(("node-a", "part-1", "mute"), ("node-b", "part-1", "good"))
    ready(client, "part-1", nodes=2)
    client._scatter.pace(REVISION, "part-1").hedge_after = lambda left_s: left_s  # no hedge helps
    threading.Timer(0.2, mute.signal, [signal.SIGKILL]).start()
    began = time.monotonic()
    while not any(one.asked for one in client.figures() if one.node == "node-a"):
        found = ask(client, "part-1").found["part-1"]
    assert found.node == "node-b"
    assert time.monotonic() - began < LONG_S / 2


def test_a_mute_node_is_asked_no_more_than_its_credits_and_comes_back_by_a_probe(
    client: FleetClient, start: Start
) -> None:
    mute, *_ = start(("node-1", "part-1", "mute"), ("node-2", "part-2", "good"), ("node-3", "part-3", "good"))
    ready(client, "part-1", "part-2", "part-3")
    for _ in range(WINDOW + 1):  # one more than its credits, in case that the questions were lost
        gathered = ask(client, "part-1", "part-2", deadline_s=0.2)
        assert gathered.missing == {"part-1": "node-1 did not answer in time"}
    began = time.monotonic()
    gathered = ask(client, "part-1", "part-2")
    assert time.monotonic() - began < LONG_S / 2, "nobody waits for a credit that does not come back"
    assert gathered.missing == {"part-1": "node-1 has not answered earlier questions"}
    assert set(gathered.found) == {"part-2"}
    wait_for(lambda: bool(ask(client, "part-1").missing) and of(client, "node-1").breaker == "open")
    figures = of(client, "node-1")
    assert (figures.asked, figures.missed, figures.owed) == (WINDOW + 1, WINDOW + 1, WINDOW + 1)
    assert ask(client, "part-1").missing == {"part-1": "node-1 failed too often and is left alone"}
    mute.become("good")
    wait_for(lambda: not ask(client, "part-1", deadline_s=0.5).missing)
    figures = of(client, "node-1")
    assert (figures.owed, figures.breaker) == (0, "closed")


def test_questions_that_were_lost_hold_a_node_up_no_longer_than_their_deadline(
    client: FleetClient, start: Start
) -> None:
    losing, *_ = start(("node-1", "part-1", "mute"))
    ready(client, "part-1")
    for _ in range(WINDOW):
        assert ask(client, "part-1", deadline_s=0.2).missing
    losing.become("good")
    assert set(ask(client, "part-1").found) == {"part-1"}
    assert of(client, "node-1").owed == 0


def test_when_most_nodes_fail_at_once_none_is_left_alone(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1", "slow:150"))
    ready(client, "part-1")
    wait_for(lambda: bool(ask(client, "part-1", deadline_s=0.05).missing) and of(client, "node-1").breaker != "closed")
    wait_for(lambda: of(client, "node-1").owed == 0)
    assert not ask(client, "part-1").missing
    assert of(client, "node-1").breaker == "closed"


def test_a_late_answer_gives_its_credit_back(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1", "slow:400"))
    ready(client, "part-1")
    assert ask(client, "part-1", deadline_s=0.1).missing
    assert of(client, "node-1").owed == 1
    wait_for(lambda: of(client, "node-1").late == 1)
    assert of(client, "node-1").owed == 0
    assert not ask(client, "part-1").missing


def test_a_slow_replica_is_hedged(client: FleetClient, start: Start) -> None:
    nodes = dict(
        zip(("node-a", "node-b"), start(("node-a", "part-1", "good"), ("node-b", "part-1", "good")), strict=True)
    )
    ready(client, "part-1", nodes=2)
    for _ in range(ENOUGH):
        assert not ask(client, "part-1").missing
    assert sum(one.hedged for one in client.figures()) <= ENOUGH / 2
    favourite = ask(client, "part-1").found["part-1"].node
    nodes[favourite].become("slow:60000")
    for _ in range(3):
        found = ask(client, "part-1").found["part-1"]
        assert found.node != favourite
    assert sum(one.hedged for one in client.figures()) >= 1


def test_a_hedge_waits_for_a_credit_of_the_other_replica(client: FleetClient, start: Start) -> None:
    lost, busy = start(("node-a", "part-1", "good"), ("node-b", "part-1,part-2", "good"))
    ready(client, "part-1", nodes=2)
    ready(client, "part-2")
    for _ in range(2 * ENOUGH):
        assert not ask(client, "part-1").missing
    lost.become("mute")
    busy.become("slow:300")
    taking = [threading.Thread(target=ask, args=(client, "part-2")) for _ in range(2)]
    for thread in taking:
        thread.start()
    wait_for(lambda: of(client, "node-b").owed == 2)
    assert ask(client, "part-1").found["part-1"].node == "node-b"
    for thread in taking:
        thread.join()


def test_many_threads_share_the_credits_and_lose_nothing(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1,part-2", "good"), ("node-2", "part-3", "good"))
    parts = ("part-1", "part-2", "part-3")
    ready(client, *parts)
    lost: list[object] = []

    def work() -> None:
        for _ in range(20):
            lost.extend(ask(client, *parts).missing.items())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert lost == []
    assert [of(client, node).asked for node in ("node-1", "node-2")] == [320, 160]
    assert not any(one.owed for one in client.figures())


def test_a_credit_that_comes_back_wakes_one_request_and_not_all_that_wait(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1", "slow:5"))
    ready(client, "part-1")
    client._scatter.pace(REVISION, "part-1").hedge_after = lambda left_s: left_s
    looks: list[float] = []
    step = client._scatter.look
    client._scatter.look = lambda request, now: (looks.append(now), step(request, now))[1]
    lost: list[object] = []
    threads = [
        threading.Thread(target=lambda: [lost.extend(ask(client, "part-1").missing) for _ in range(10)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert lost == []
    assert len(looks) <= 4 * 80, "with all of six woken at every answer there are seven looks a request"


def test_who_waits_for_a_credit_is_told_when_none_can_be_hoped_for(client: FleetClient, start: Start) -> None:
    start(("node-1", "part-1", "mute"))
    ready(client, "part-1")
    first = [threading.Thread(target=ask, args=(client, "part-1"), kwargs={"deadline_s": 1.0}) for _ in range(WINDOW)]
    for thread in first:
        thread.start()
    wait_for(lambda: of(client, "node-1").owed == WINDOW)
    assert ask(client, "part-1", deadline_s=1.1).missing
    began = time.monotonic()
    gathered = ask(client, "part-1")
    assert time.monotonic() - began < LONG_S / 2
    assert gathered.missing == {"part-1": "node-1 has not answered earlier questions"}
    for thread in first:
        thread.join()


def test_a_stopped_node_is_left_out_and_comes_back(client: FleetClient, start: Start) -> None:
    stopped, _ = start(("node-1", "part-1", "good"), ("node-2", "part-2", "good"))
    ready(client, "part-1", "part-2")
    stopped.signal(signal.SIGSTOP)
    wait_for(lambda: not client.replicas(REVISION, "part-1"))
    assert ask(client, "part-1", "part-2").missing == {"part-1": "no node has it"}
    stopped.signal(signal.SIGCONT)
    wait_for(lambda: not ask(client, "part-1", "part-2", deadline_s=0.5).missing)
