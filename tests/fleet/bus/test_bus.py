"""The seven verbs over real Zenoh sessions on this machine, and what holds whatever its users do."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from ipaddress import ip_address
from pathlib import Path
from queue import Queue
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_for

from edgevit.errors import FleetError, UsageError
from edgevit.fleet.bus import here
from edgevit.fleet.bus.harden import _sockets
from edgevit.fleet.bus.link import Link, Role
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Answer, Bus, Question, gather
from edgevit.fleet.bus.zenoh_bus import ZenohBus
from edgevit.fleet.bus.zenoh_settings import LEASE_MS
from edgevit.fleet.trust.ca import enroll, init_ca

NAMES = Names()
SOON = 60.0  # seconds within which anything is there, on the busiest machine
linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT and /proc are Linux's")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    return tmp_path


@contextmanager
def bus(role: Role, link: Link | None = None, name: str | None = None) -> Iterator[Bus]:
    opened = open_bus(link or Link(), role, name)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def pair() -> Iterator[tuple[Bus, Bus]]:
    """A node and a client that are linked."""
    with bus("node", name="n1") as node, bus("client") as client:
        yield node, client


def echo(question: Question) -> None:
    question.answer(question.payload(), question.meta)
    question.finish()


def free_endpoint(protocol: str = "tcp") -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"{protocol}/127.0.0.1:{one.getsockname()[1]}"


# --- asking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"\0\xff" * 200_000, bytearray(b"abc"), memoryview(b"abcdef")[1:5]])
def test_an_answer_has_the_bytes_that_were_sent(pair: tuple[Bus, Bus], payload: bytes | bytearray | memoryview) -> None:
    node, client = pair
    node.serve(NAMES.info("n1"), echo)
    wait_for(lambda: bool(gather(client, NAMES.info("n1"), timeout_s=1).answers))
    (answer,) = gather(client, NAMES.info("n1"), payload=payload, meta=b'{"a": 1}', timeout_s=SOON).good
    assert answer == Answer(NAMES.info("n1"), bytes(payload), b'{"a": 1}')


def test_a_question_to_all_gets_every_answer_under_the_key_that_was_served(pair: tuple[Bus, Bus]) -> None:
    node, client = pair
    for name in ("n1", "n2", "n3"):
        node.serve(NAMES.info(name), echo)
    node.serve(NAMES.blob("*", "n1"), echo)
    wait_for(lambda: len(gather(client, NAMES.info(), timeout_s=1, expected=None).answers) == 3)
    found = gather(client, NAMES.info(), timeout_s=SOON, expected=None)
    assert {answer.key for answer in found.good} == {NAMES.info(name) for name in ("n1", "n2", "n3")}
    (blob,) = gather(client, NAMES.blob("abc", "n1"), timeout_s=SOON).good
    assert blob.key == NAMES.blob("abc", "n1")


def test_a_question_can_be_answered_later_and_several_times(pair: tuple[Bus, Bus]) -> None:
    node, client = pair
    kept: Queue[Question] = Queue()
    node.serve(NAMES.log("n1"), kept.put)
    wait_for(lambda: ask(client, NAMES.log("n1"), 0.2).over.wait(0.05) is False)  # somebody serves it now
    while not kept.empty():
        kept.get().finish()
    asked = ask(client, NAMES.log("n1"))
    question = kept.get(timeout=SOON)
    for text in (b"one", b"two", b"three"):
        question.answer(text)
        wait_for(lambda text=text: asked.answers[-1:] == [text])  # each on its way before the next
    assert not asked.over.is_set()
    question.finish()
    assert asked.over.wait(SOON)
    question.finish()
    question.answer(b"too late")
    question.refuse("too late")
    assert asked.answers == [b"one", b"two", b"three"]


def test_a_refusal_says_why_and_ends_the_question(pair: tuple[Bus, Bus]) -> None:
    node, client = pair
    node.serve(NAMES.info("n1"), lambda question: question.refuse("busy"))
    wait_for(lambda: bool(gather(client, NAMES.info("n1"), timeout_s=1).answers))
    begun = time.monotonic()
    found = gather(client, NAMES.info("n1"), timeout_s=SOON, expected=None)
    assert (found.refusals, found.good) == (("busy",), ())
    assert time.monotonic() - begun < SOON / 2


def test_a_handler_that_raises_refuses_and_goes_on_serving(
    pair: tuple[Bus, Bus], caplog: pytest.LogCaptureFixture
) -> None:
    node, client = pair

    def fragile(question: Question) -> None:
        if question.payload() == b"break":
            raise RuntimeError("no")
        echo(question)

    node.serve(NAMES.info("n1"), fragile)
    wait_for(lambda: bool(gather(client, NAMES.info("n1"), timeout_s=1).answers))
    assert gather(client, NAMES.info("n1"), payload=b"break", timeout_s=SOON).refusals == ("failed",)
    assert gather(client, NAMES.info("n1"), payload=b"on", timeout_s=SOON).good[0].payload == b"on"
    assert "RuntimeError: no" in caplog.text


@pytest.mark.parametrize("key", [NAMES.info("nobody"), NAMES.info()])
def test_a_question_that_nobody_serves_ends_before_its_time(pair: tuple[Bus, Bus], key: str) -> None:
    asked = ask(pair[1], key, 60)
    assert asked.over.wait(SOON)
    assert asked.answers == []


def test_a_question_whose_server_closes_without_a_word_ends_before_its_time(pair: tuple[Bus, Bus]) -> None:
    node, client = pair
    kept: Queue[Question] = Queue()
    node.serve(NAMES.log("n1"), kept.put)
    wait_for(lambda: ask(client, NAMES.log("n1"), 0.2).over.wait(0.05) is False)
    asked = ask(client, NAMES.log("n1"), 60)
    node.close()
    assert asked.over.wait(SOON)


def test_an_unanswered_question_ends_with_its_time(pair: tuple[Bus, Bus]) -> None:
    node, client = pair
    kept: list[Question] = []
    node.serve(NAMES.log("n1"), kept.append)
    wait_for(lambda: ask(client, NAMES.log("n1"), 0.2).over.wait(0.05) is False)
    asked = ask(client, NAMES.log("n1"), 0.3)
    assert asked.over.wait(SOON)
    assert asked.answers == []


@pytest.mark.parametrize("bulk", [False, True])
def test_one_may_ask_while_holding_the_lock_that_the_callbacks_take(bulk: bool) -> None:
    """Zenoh calls back within ``get`` where this session serves the key itself, or nobody does."""
    with bus("node", name="n1") as alone:
        alone.serve(NAMES.info("n1"), echo)
        lock, over, heard = threading.Lock(), threading.Semaphore(0), list[str]()

        def on_answer(answer: Answer) -> None:
            with lock:
                heard.append(answer.key)

        def on_done() -> None:
            with lock:
                heard.append("done")
            over.release()

        def go() -> None:
            with lock:
                for key in (NAMES.info("n1"), NAMES.info("nobody")):
                    alone.ask(key, on_answer, on_done, timeout_s=SOON, bulk=bulk)

        asking = threading.Thread(target=go, daemon=True)
        asking.start()
        asking.join(SOON)
        assert not asking.is_alive()
        assert over.acquire(timeout=SOON)
        assert over.acquire(timeout=SOON)
        assert sorted(heard) == sorted([NAMES.info("n1"), "done", "done"])
        assert heard.index(NAMES.info("n1")) < len(heard) - 1  # its own done comes after it


def test_callbacks_that_raise_break_nothing(pair: tuple[Bus, Bus], caplog: pytest.LogCaptureFixture) -> None:
    node, client = pair
    times = {"watch": 0, "listen": 0, "answer": 0, "done": 0}

    def raising(what: str) -> Callable[..., None]:
        def raises(*_: object) -> None:
            times[what] += 1
            raise ValueError(what)

        return raises

    client.watch(NAMES.live(), raising("watch"))
    client.listen(NAMES.beat(), raising("listen"))
    node.serve(NAMES.info("n1"), echo)
    for incarnation in ("a", "b"):
        node.announce(NAMES.live("n1", incarnation))
    wait_for(lambda: times["watch"] >= 2)

    def again() -> bool:
        node.publish(NAMES.beat("n1"), b"x")
        client.ask(NAMES.info("n1"), raising("answer"), raising("done"), timeout_s=1)
        time.sleep(0.02)
        return min(times.values()) >= 2

    wait_for(again)
    assert "ValueError" in caplog.text


def test_a_flood_of_questions_is_refused_and_not_kept(pair: tuple[Bus, Bus]) -> None:
    node, client = pair
    gate, over = threading.Event(), threading.Semaphore(0)
    heard: list[Answer] = []

    def stuck(question: Question) -> None:
        gate.wait(SOON)
        echo(question)

    node.serve(NAMES.info("n1"), stuck)
    wait_for(lambda: ask(client, NAMES.info("n1"), 0.2).over.wait(0.05) is False)
    for _ in range(1000):
        client.ask(NAMES.info("n1"), heard.append, over.release, timeout_s=60)
    wait_for(lambda: sum(answer.refused == "busy" for answer in heard) >= 500)
    gate.set()


class Asked:
    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.over = threading.Event()


def ask(client: Bus, key: str, timeout_s: float = SOON) -> Asked:
    asked = Asked()
    client.ask(key, lambda answer: asked.answers.append(answer.payload), asked.over.set, timeout_s=timeout_s)
    return asked


# --- membership ---------------------------------------------------------------------------------------------------


def test_who_watches_is_told_of_those_there_before_and_after_and_of_their_end(pair: tuple[Bus, Bus]) -> None:
    node, client = pair
    first = node.announce(NAMES.live("n1", "a"))
    seen: list[tuple[str, bool]] = []
    client.watch(NAMES.live(), lambda key, there: seen.append((NAMES.steps(key)[2], there)))
    wait_for(lambda: seen == [("a", True)])
    node.announce(NAMES.live("n1", "b"))
    wait_for(lambda: seen == [("a", True), ("b", True)])
    first.close()
    first.close()
    wait_for(lambda: seen[2:] == [("a", False)])
    node.close()
    wait_for(lambda: seen[3:] == [("b", False)])


def test_what_is_served_before_it_is_announced_can_be_asked_at_once(pair: tuple[Bus, Bus]) -> None:
    """Rule 4 of docs/explanation/fleet.md. The other way round, most of these find nobody."""
    node, client = pair
    heard: list[bytes] = []
    over = threading.Semaphore(0)

    def seen(key: str, there: bool) -> None:
        if there:
            name = NAMES.steps(key)[1]
            client.ask(NAMES.info(name), lambda answer: heard.append(answer.payload), over.release, timeout_s=SOON)

    client.watch(NAMES.live(), seen)
    for number in range(20):
        node.serve(NAMES.info(f"n{number}"), echo)
        node.announce(NAMES.live(f"n{number}", "a"))
        assert over.acquire(timeout=SOON)
        assert len(heard) == number + 1


def test_nodes_that_start_at_the_same_moment_all_find_each_other() -> None:
    count = 8
    seen: list[set[str]] = [set() for _ in range(count)]
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        gate = threading.Barrier(count)

        def start(number: int) -> Bus:
            gate.wait()
            return open_bus(Link(), "node", f"n{number}")

        for number, opened in enumerate(pool.map(start, range(count))):
            stack.callback(opened.close)
            opened.announce(NAMES.live(f"n{number}", "a"))
            opened.watch(NAMES.live(), lambda key, _, mine=seen[number]: mine.add(key))
        wait_for(lambda: all(len(mine) == count for mine in seen))


def test_a_client_that_was_there_first_finds_the_node_without_a_flag() -> None:
    there = threading.Event()
    with bus("client") as client:
        client.watch(NAMES.live(), lambda *_: there.set())
        with bus("node", name="n1") as node:
            node.announce(NAMES.live("n1", "a"))
            assert there.wait(SOON)


@pytest.mark.parametrize("named", [False, True])
def test_any_two_processes_share_one_link(named: bool) -> None:
    """Two, one dialed by each side, are one transport, which goes on without what was declared over the one that dies
    first: a node that was stopped twice was not seen again until the next break."""
    first, *others = (free_endpoint() for _ in range(3))
    links = [Link()] * 4
    if named:  # everyone knows one node, and hears of the others from it
        links = [Link(listen=(first,)), *(Link(listen=(one,), connect=(first,)) for one in others)]
        links.append(Link(connect=(first,)))
    roles: list[Role] = ["node", "node", "node", "operator"]

    def linked_once() -> bool:
        sessions = [cast(ZenohBus, one)._session for one in buses]
        there = {str(one.zid()) for one in sessions}  # a session of this process that was closed may be seen for long
        found = [[str(link.zid) for link in one.info.links() if str(link.zid) in there] for one in sessions]
        return all(len(zids) == len(set(zids)) == len(buses) - 1 for zids in found)

    buses: list[Bus] = []
    with ExitStack() as stack:
        for role, link in zip(roles, links, strict=True):
            buses.append(stack.enter_context(bus(role, link)))
        wait_for(linked_once, SOON)
        for number in (1, 2, 3) * 3:
            buses[number].close()
            buses[number] = stack.enter_context(bus(roles[number], links[number]))
            wait_for(linked_once, SOON)


_NODE = """
import sys
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.names import Names
node = open_bus(Link(), "node", "n1")
node.announce(Names().live("n1", "a"))
print("up", flush=True)
if "wait" in sys.argv:
    sys.stdin.read()
"""


@contextmanager
def node_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _NODE, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_is_gone_before_its_lease_ends_and_its_entry_is_deleted(home: Path) -> None:
    seen: Queue[tuple[bool, float]] = Queue()
    with bus("client") as client, node_process("wait") as process:
        client.watch(NAMES.live(), lambda _, there: seen.put((there, time.monotonic())))
        assert seen.get(timeout=SOON)[0]
        assert len(list(here.folder().glob("n1-*.json"))) == 1
        killed = time.monotonic()
        process.send_signal(signal.SIGKILL)
        there, when = seen.get(timeout=SOON)
        assert not there
        assert when - killed < 0.75 * LEASE_MS / 1000
        process.wait()
        with bus("client"):
            assert list(here.folder().glob("n1-*.json")) == []


def test_a_process_that_never_closes_its_bus_ends_all_the_same() -> None:
    with node_process() as process:
        assert process.wait(SOON) == 0


def test_an_entry_of_another_machine_or_of_something_else_is_left_alone(home: Path) -> None:
    folder = here.folder()
    folder.mkdir(parents=True)
    with bus("node", name="n1"):
        (mine,) = folder.glob("n1-*.json")
        held = []
        for name, record in {
            "other-host": json.loads(mine.read_text()) | {"host": "elsewhere"},
            "far": json.loads(mine.read_text()) | {"endpoint": "tcp/10.9.9.9:1"},
            "list": [],
        }.items():
            file = (folder / f"{name}.json").open("w+")
            file.write(json.dumps(record))
            file.flush()
            if sys.platform != "win32":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            held.append(file)
        entry = here.Entry("probe")
        try:
            assert entry.others() == (json.loads(mine.read_text())["endpoint"],)
            assert len(list(folder.glob("*.json"))) == 5
        finally:
            entry.close()
            for file in held:
                file.close()


def test_a_closed_bus_takes_nothing_and_says_so() -> None:
    opened = open_bus(Link(), "node", "n1")
    closer = opened.serve(NAMES.info("n1"), echo)
    opened.close()
    opened.close()
    closer.close()
    opened.publish(NAMES.beat("n1"), b"x")
    assert ask(opened, NAMES.info("n1")).over.wait(SOON)
    with pytest.raises(FleetError, match="is closed"):
        opened.announce(NAMES.live("n1", "a"))


# --- links --------------------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("secure", [False, True])
def test_both_ends_of_every_link_are_hardened(secure: bool) -> None:
    """Rule 3 of docs/explanation/fleet.md: without it, a link that was cut freezes the links to everyone else."""
    ends: dict[Role, Path] = {}
    if secure:
        init_ca()
        ends = {"node": enroll("n1", "node").folder, "client": enroll("laptop", "client").folder}
    endpoint = free_endpoint("tls" if secure else "tcp")
    port = int(endpoint.rpartition(":")[2])

    def hardened() -> list[bool]:
        found = []
        for one in _sockets():
            with one:
                try:
                    ports = one.getsockname()[1], one.getpeername()[1]
                except OSError:  # it listens
                    continue
                if port in ports:
                    linger = struct.unpack("ii", one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
                    waits = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                    found.append(linger[0] == 0 and 0 < waits <= 1.5 * LEASE_MS)
        return found

    with bus("node", Link(listen=(endpoint,), identity=ends.get("node"))):
        open_files = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with bus("client", Link(connect=(endpoint,), identity=ends.get("client"))):
                wait_for(lambda: hardened() == [True, True])
        wait_for(lambda: len(os.listdir("/proc/self/fd")) <= open_files + 5)  # no copy of a socket is left open


@given(st.ip_addresses(), st.integers(1, 65535), st.booleans())
def test_nothing_leaves_this_machine_in_the_clear_unless_it_is_meant(address: object, port: int, out: bool) -> None:
    host = f"[{address}]" if ":" in str(address) else str(address)
    link = {"connect" if out else "listen": (f"tcp/{host}:{port}",)}
    Link(**link, insecure=True).check()  # type: ignore[arg-type]
    if ip_address(str(address)).is_loopback:
        Link(**link).check()  # type: ignore[arg-type]
    else:
        with pytest.raises(UsageError, match="without encryption"):
            Link(**link).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (Link(listen=("tls/127.0.0.1:1",)), "needs an identity"),
        (Link(listen=("127.0.0.1:1",)), "is no endpoint"),
        (Link(listen=("udp/127.0.0.1:1",)), "is no endpoint"),
        (Link(mode="router"), "needs an endpoint"),
        (Link(mode="client"), "must name it"),
        (Link(cluster="a/b"), "cluster"),
        (Link(identity=Path("/nowhere")), "key.pem is missing"),
    ],
)
def test_a_link_that_cannot_be_is_refused_with_a_next_step(link: Link, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        open_bus(link, "client")
    assert refused.value.hint


def test_a_taken_port_and_a_missing_router_are_told_in_words() -> None:
    endpoint = free_endpoint()
    with bus("node", Link(listen=(endpoint,))), pytest.raises(FleetError, match="another process listens on"):
        open_bus(Link(listen=(endpoint,)), "node")
    with pytest.raises(FleetError, match="no router lets this process in"):
        open_bus(Link(mode="client", connect=(endpoint,)), "client")


_ROUTER = """
import sys
from pathlib import Path
from edgevit.fleet.bus.link import Link
from edgevit.fleet.agent.router import run_router
run_router(Link(listen=(sys.argv[1],), identity=Path(sys.argv[2]) if sys.argv[2:] else None))
"""


@pytest.mark.parametrize("modes", [("client", "client"), ("peer", "peer"), ("client", "peer")])
def test_a_router_brings_nodes_and_clients_together_and_ends_on_sigterm(modes: tuple[str, str]) -> None:
    endpoint = free_endpoint()
    router = subprocess.Popen([sys.executable, "-c", _ROUTER, endpoint])
    try:
        wait_for(lambda: answers(endpoint))
        links = [Link(mode=mode, connect=(endpoint,)) for mode in modes]  # type: ignore[arg-type]
        with bus("node", links[0]) as node, bus("client", links[1]) as client:
            node.serve(NAMES.info("n1"), echo)
            wait_for(lambda: bool(gather(client, NAMES.info("n1"), timeout_s=1).good))
        router.send_signal(signal.SIGTERM)
        assert router.wait(SOON) == 0
    finally:
        router.kill()
        router.wait()


def answers(endpoint: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), 1).close()
    except OSError:
        return False
    return True


# --- roles --------------------------------------------------------------------------------------------------------

ASKS = {  # role -> the keys of a node that it may ask
    "client": {"infer", "info", "place"},
    "node": {"info", "place", "order", "blob"},
    "operator": {"infer", "info", "place", "order", "blob", "log"},
}
SEES = {  # role -> the keys announced by a node that it is told of
    "client": {"live", "ready"},
    "node": {"live", "ready", "control"},
    "operator": {"live", "ready", "control"},
}


def test_a_role_may_do_what_it_must_and_no_more() -> None:
    """By Zenoh's rules alone: what is sealed is another test's."""
    init_ca()
    identities: dict[Role, Path] = {
        role: enroll(f"a-{role}", role).folder for role in ("node", "client", "operator", "router")
    }
    endpoint = free_endpoint("tls")
    served = {
        "infer": NAMES.infer("r", "p", "n1"),
        "info": NAMES.info("n1"),
        "place": NAMES.place("b"),
        "order": NAMES.order("n1", "apply"),
        "blob": NAMES.blob("a", "n1"),
        "log": NAMES.log("n1"),
    }
    announced = {
        "live": NAMES.live("n1", "i"),
        "ready": NAMES.ready("r", "p", "n1", "i"),
        "control": NAMES.control("n1", "i"),
    }

    def raw(role: Role, **link: object) -> closing[ZenohBus]:
        return closing(ZenohBus(Link(**link, identity=identities[role]), role, role))  # type: ignore[arg-type]

    with raw("node", listen=(endpoint,)) as node:
        for key in served.values():
            node.serve(key, echo)
        for key in announced.values():
            node.announce(key)
        heard: set[str] = set()
        node.listen(NAMES.beat(), lambda key, _: heard.add(key))
        there: set[str] = set()
        node.watch(NAMES.live(), lambda key, _: there.add(NAMES.steps(key)[1]))
        for role in ASKS:
            with raw(role, connect=(endpoint,)) as other:  # type: ignore[arg-type]
                seen: set[str] = set()
                for pattern in (NAMES.live(), NAMES.ready(), NAMES.control()):
                    other.watch(pattern, lambda key, _, seen=seen: seen.add(NAMES.steps(key)[0]))
                wait_for(lambda: bool(gather(other, served["info"], timeout_s=1).good))
                answered = {what for what, key in served.items() if gather(other, key, timeout_s=0.5).good}
                assert answered == ASKS[role], role
                wait_for(lambda: seen >= SEES[role])  # noqa: B023
                assert seen == SEES[role], role
                # to pass for a node
                other.announce(NAMES.live(f"false-{role}", "i"))
                other.serve(NAMES.info(f"false-{role}"), echo)
                other.publish(NAMES.beat(f"false-{role}"), b"x")
                time.sleep(0.1)
                other.publish(NAMES.beat(f"false-{role}"), b"x")  # the first may have come before it knew who listens
                if role == "node":  # which nothing tells from another node
                    wait_for(lambda: bool(gather(node, NAMES.info("false-node"), timeout_s=0.5).good))
                    wait_for(lambda: NAMES.beat("false-node") in heard and "false-node" in there)
                else:
                    time.sleep(0.3)
                    assert not gather(node, NAMES.info(f"false-{role}"), timeout_s=0.5).good, role
        assert heard == {NAMES.beat("false-node")}
        assert there == {"n1", "false-node"}
