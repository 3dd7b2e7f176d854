"""Who may do what over real TLS on loopback: strangers nothing, every role what its row says, and all of that for as
long as certificates last. The tables of roles are Zenoh's own rules; bus/test_sealed_bus.py is about what is sealed."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fleet.fleet_nodes import free_port
from waiting import wait_for

from edgevit.errors import FleetError, UsageError
from edgevit.fleet.bus import zenoh_bus
from edgevit.fleet.bus.link import Link, Role
from edgevit.fleet.bus.logs import Log
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Question, gather
from edgevit.fleet.bus.zenoh_bus import ZenohBus
from edgevit.fleet.trust import ca, identity, renewing_bus
from edgevit.fleet.trust.identity import open_identity
from edgevit.fleet.trust.renewing_bus import open_renewing_bus
from edgevit.fleet.trust.serving import serve_ca

NAMES = Names()
SHA = "a" * 64
SOON = 15.0  # seconds that something which happens may take
A_WHILE = 1.0  # that something which must not happen is given after all that may has
ROLES: tuple[Role, ...] = ("node", "client", "operator", "router")
STRANGERS = ("no certificate", "another CA", "expired", "plain tcp")
PATHS = ("node", "router")

# what is tried -> who may; "fake" stands for the name that whoever tries it gives itself
ANYONE, NODES, OPERATORS = {"node", "client", "operator", "router"}, {"node", "router"}, {"operator", "router"}
ASKED = {
    NAMES.hello("n1"): ANYONE,
    NAMES.info("n1"): ANYONE,
    NAMES.place("digits"): ANYONE,
    NAMES.ca("renew"): ANYONE,
    NAMES.infer(SHA, "part-0", "n1"): {"client", "operator", "router"},
    NAMES.blob(SHA, "n1"): NODES | OPERATORS,
    NAMES.order("n1", "apply"): NODES | OPERATORS,  # the controller is a node
    NAMES.order("n1", "drain"): OPERATORS,
    NAMES.order("n1", "profile"): OPERATORS,
    NAMES.log("n1"): OPERATORS,
}
SEEN = {
    NAMES.live("n1", "1"): ANYONE,
    NAMES.ready(SHA, "part-0", "n1", "1"): ANYONE,
    NAMES.control("n1", "1"): NODES | OPERATORS,
}
HEARD = {NAMES.beat("n1"): ANYONE, NAMES.job("n1", "7"): OPERATORS}
ANNOUNCED = {
    NAMES.live("fake", "1"): NODES,
    NAMES.ready(SHA, "part-0", "fake", "1"): NODES,
    NAMES.control("fake", "1"): NODES,
}
PUBLISHED = {NAMES.beat("fake"): NODES, NAMES.job("fake", "7"): NODES}
SERVED = {
    NAMES.hello("fake"): NODES | OPERATORS,
    NAMES.info("fake"): NODES,
    NAMES.infer(SHA, "part-0", "fake"): NODES,
    NAMES.order("fake", "apply"): NODES,
    NAMES.log("fake"): NODES,
    NAMES.blob(SHA, "fake"): NODES | OPERATORS,
    NAMES.ca("fake"): OPERATORS,
}  # fmt: skip


def may(role: str) -> set[str]:
    """All that a role may, as ``Attempt.found`` says it."""
    tables = {
        "asks": ASKED,
        "sees": SEEN,
        "hears": HEARD,
        "announces": ANNOUNCED,
        "publishes": PUBLISHED,
        "serves": SERVED,
    }
    return {f"{verb} {key}" for verb, keys in tables.items() for key, roles in keys.items() if role in roles}


def endpoint() -> str:
    return f"tls/127.0.0.1:{free_port()}"


def answer(question: Question) -> None:
    question.answer(b"here")
    question.finish()


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder per role, those of two strangers, and the CA that all but one are of."""
    home = tmp_path_factory.mktemp("security")
    out = home / "identities"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_HOME", str(home / "other"))
        ca.init_ca()
        ca.enroll("n1", out=out / "another CA")
        patch.setenv("EDGEVIT_HOME", str(home))
        ca.init_ca(now=datetime.now(UTC) - timedelta(days=30))
        ca.enroll("old", out=out / "expired", now=datetime.now(UTC) - timedelta(days=8))
        for role in ROLES:
            ca.enroll("n1" if role == "node" else f"{role}-1", role, out=out / role)
        ca.enroll("s1", out=out / "s1")
        yield out


@dataclass
class Fleet:
    """A router, a node that is linked to it, and an operator who is a client of it."""

    routed: str
    direct: str
    node: Bus
    operator: Bus
    asked: set[tuple[str, str]] = field(default_factory=set)  # (key, who asked) that reached the node


@pytest.fixture(scope="module")
def fleet(identities: Path) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:

        def opened(link: Link, role: Role) -> Bus:
            bus = ZenohBus(replace(link, identity=identities / role), role, role)
            stack.callback(bus.close)
            return bus

        routed, direct = endpoint(), endpoint()
        opened(Link(mode="router", listen=(routed,)), "router")
        node = opened(Link(listen=(direct,), connect=(routed,)), "node")
        operator = opened(Link(mode="client", connect=(routed,)), "operator")
        fleet = Fleet(routed, direct, node, operator)

        def asked(question: Question) -> None:
            fleet.asked.add((question.key, question.payload().decode()))
            answer(question)

        for key in ASKED:
            (operator if key == NAMES.ca("renew") else node).serve(key, asked)
        tokens = [node.announce(key) for key in SEEN]
        yield fleet
        for token in tokens:
            token.close()


OPENING = threading.local()  # .settings: what the thread changes in those of Zenoh


class Attempt:
    """One process that tries everything there is to try. It does not restrict itself: its own rules are off."""

    def __init__(self, who: str, path: str, fleet: Fleet, identities: Path) -> None:
        self.fake = f"{who}-by-{path}".replace(" ", "-")
        self.observer = fleet.node if path == "node" else fleet.operator
        self.found: set[str] = set()
        self.bus = self._open(who, fleet.direct if path == "node" else fleet.routed, identities)
        session = self.bus._session  # type: ignore[attr-defined]
        self.links = lambda: [*session.info.peers_zid(), *session.info.routers_zid()]
        self._declare()

    def _open(self, who: str, where: str, identities: Path) -> Bus:
        link = Link(connect=(where,), identity=identities / (who if (identities / who).is_dir() else "client"))
        link = replace(link, mode="peer" if who in STRANGERS else "client")  # a peer goes on trying
        changes: dict[str, object] = {"access_control": {"enabled": False}}
        if who == "no certificate":
            tls = "transport/link/tls"
            changes |= {f"{tls}/{name}": None for name in ("connect_private_key", "connect_certificate")}
        if who == "plain tcp":
            link = Link(connect=(where.replace("tls/", "tcp/"),), insecure=True)
        OPENING.settings = changes
        return ZenohBus(link, "client", "intruder")

    def mine(self, key: str) -> str:
        return key.replace("fake", self.fake)

    def _declare(self) -> None:
        for pattern in (NAMES.live(), NAMES.ready(), NAMES.control()):
            self.bus.watch(pattern, lambda key, there: self._took("sees", key))
        for pattern in (NAMES.beat(), NAMES.job("*")):
            self.bus.listen(pattern, lambda key, _: self._took("hears", key))
        for key in SERVED:
            self.bus.serve(self.mine(key), answer)
        self.tokens = [self.bus.announce(self.mine(key)) for key in ANNOUNCED]
        self.observer.watch(f"{NAMES.root}/**", lambda key, there: self._took("announces", key))
        for pattern in (NAMES.beat(), NAMES.job("*")):
            self.observer.listen(pattern, lambda key, _: self._took("publishes", key))

    def _took(self, verb: str, key: str) -> None:
        table = {"sees": SEEN, "hears": HEARD, "announces": ANNOUNCED, "publishes": PUBLISHED}[verb]
        if (key := key.replace(self.fake, "fake")) in table:
            self.found.add(f"{verb} {key}")

    def act(self) -> None:
        """All that has to be done at a moment; again and again, since links take a moment to be there."""
        for key in PUBLISHED:
            self.bus.publish(self.mine(key), b"{}")
        for key in ASKED:
            self._ask(self.bus, key, f"asks {key}")
        for key in SERVED:
            self._ask(self.observer, self.mine(key), f"serves {key}")

    def _ask(self, bus: Bus, key: str, what: str) -> None:
        if what not in self.found:
            took = lambda got: self.found.add(what) if got.payload == b"here" else None  # noqa: E731
            bus.ask(key, took, lambda: None, payload=self.fake.encode(), timeout_s=2)


@pytest.fixture(scope="module")
def attempts(fleet: Fleet, identities: Path) -> Iterator[dict[tuple[str, str], Attempt]]:
    """Everyone at once, until all have done what they may, and a while longer."""
    pairs = [(who, path) for who in (*ROLES, *STRANGERS) for path in PATHS]
    settings = zenoh_bus.settings
    with ThreadPoolExecutor(len(pairs)) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(zenoh_bus, "settings", lambda *link: {**settings(*link), **OPENING.settings})
        tried = dict(zip(pairs, pool.map(lambda pair: Attempt(*pair, fleet, identities), pairs), strict=True))
    honest = [tried[role, path] for role in ROLES for path in PATHS]

    def act() -> bool:
        for key in HEARD:
            fleet.node.publish(key, b"{}")
        for attempt in tried.values():
            attempt.act()
        time.sleep(0.2)
        return all(one.found >= may(role) for one, role in zip(honest, [r for r in ROLES for _ in PATHS], strict=True))

    wait_for(act)
    end = time.monotonic() + A_WHILE
    while time.monotonic() < end:
        act()
    yield tried
    for attempt in tried.values():
        attempt.bus.close()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("role", ROLES)
def test_every_role_may_do_what_its_row_says_and_nothing_else(
    attempts: dict[tuple[str, str], Attempt], role: str, path: str
) -> None:
    assert attempts[role, path].found == may(role)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_gets_no_session_sees_nothing_and_changes_nothing(
    attempts: dict[tuple[str, str], Attempt], fleet: Fleet, who: str, path: str
) -> None:
    assert attempts[who, path].found == set()
    assert attempts[who, path].links() == []
    assert attempts[who, path].fake not in {name for _, name in fleet.asked}


def test_what_is_refused_never_reached_the_node(attempts: dict[tuple[str, str], Attempt], fleet: Fleet) -> None:
    for (who, _), attempt in attempts.items():
        reached = {f"asks {key}" for key, name in fleet.asked if name == attempt.fake}
        assert reached == {what for what in may(who) if what.startswith("asks")}


# --- while certificates last --------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    ca.init_ca()
    return tmp_path


class Members:
    """Who is there, as an operator sees it, and who ever left."""

    def __init__(self, bus: Bus) -> None:
        self.there: set[str] = set()
        self.left: list[str] = []
        bus.watch(NAMES.live(), self._changed)

    def _changed(self, key: str, there: bool) -> None:
        name = NAMES.steps(key)[1]
        if there:
            self.there.add(name)
        else:
            self.there.discard(name)
            self.left.append(name)


SECONDS = 1 / 86400  # of a day
LIFE = 6  # seconds


def test_a_certificate_ends_a_link_unless_it_is_renewed_which_nobody_notices(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "RENEWED_AT", 0.35)  # so that a busy machine has seconds left to do it in
    with contextlib.ExitStack() as stack:
        routed, over = endpoint(), threading.Event()
        router = Link(mode="router", listen=(routed,), identity=ca.enroll("hub", "router").folder)
        stack.callback(open_bus(router, "router").close)
        operator = Link(mode="client", connect=(routed,), identity=ca.enroll("boss", "operator").folder)
        asking = open_bus(operator, "operator")
        stack.callback(asking.close)
        members = Members(asking)
        said = io.StringIO()
        served = {"stop": over, "log": Log("ca", said)}
        authority = threading.Thread(target=serve_ca, args=(Link(connect=(routed,)),), kwargs=served)
        authority.start()
        stack.callback(authority.join)
        stack.callback(over.set)
        tokens, folders = [], {}
        for name, opened in (("kept", open_renewing_bus), ("left", open_bus), ("revoked", open_renewing_bus)):
            folders[name] = ca.enroll(name, days=LIFE * SECONDS).folder
            more = {"poll_s": 0.2} if opened is open_renewing_bus else {}
            bus = opened(Link(listen=("tls/127.0.0.1:0",), connect=(routed,), identity=folders[name]), "node", **more)  # type: ignore[operator]
            stack.callback(bus.close)
            bus.serve(NAMES.info(name), answer)
            tokens.append(bus.announce(NAMES.live(name, "1")))
        ca.revoke("revoked")
        first = open_identity(folders["kept"]).ends
        wait_for(lambda: members.there == set(folders))
        unanswered = 0

        def gone() -> bool:
            nonlocal unanswered
            unanswered += not gather(asking, NAMES.info("kept"), timeout_s=2).good
            return {"left", "revoked"} <= set(members.left) and datetime.now(UTC) > first + timedelta(seconds=1)

        wait_for(gone, 30)
        assert members.there == {"kept"}
        assert "kept" not in members.left
        assert unanswered == 0
        assert open_identity(folders["kept"]).ends > first
        with pytest.raises(FleetError, match="ended on"):
            open_identity(folders["revoked"])
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    assert {line["name"] for line in lines if line["event"] == "renewed"} == {"kept"}
    refusals = {line["reason"] for line in lines if line["event"] == "refused"}
    assert any(reason.startswith("revoked was revoked on") for reason in refusals)


@pytest.mark.parametrize("listen", [None, "tls/127.0.0.1:0"], ids=["fixed port", "any port"])
def test_declarations_go_from_session_to_session_and_are_told_once(
    identities: Path, fleet: Fleet, listen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing_bus, "SETTLE_S", 0.6)
    monkeypatch.setattr(renewing_bus, "ANSWER_S", 0.2)
    link = Link(listen=(listen or endpoint(),), connect=(fleet.routed,), identity=identities / "s1")
    with contextlib.ExitStack() as stack:
        bus, operator, node = (
            stack.enter_context(contextlib.closing(opened))
            for opened in (
                open_renewing_bus(link, "node"),
                open_bus(Link(mode="client", connect=(fleet.routed,), identity=identities / "operator"), "operator"),
                open_bus(Link(connect=(fleet.routed,), identity=identities / "node"), "node"),
            )
        )
        assert isinstance(bus, renewing_bus.RenewingBus)
        outside, beside = Members(fleet.operator), Members(fleet.node)
        inside: list[tuple[str, bool]] = []
        heard: list[bytes] = []
        bus.watch(NAMES.live(), lambda key, there: inside.append((key, there)))
        bus.listen(NAMES.beat("n1"), lambda key, data: heard.append(data))
        bus.serve(NAMES.info("s1"), answer)
        gone = [bus.serve(NAMES.log("s1"), answer), bus.announce(NAMES.live("gone", "1"))]
        token = bus.announce(NAMES.live("s1", "1"))
        wait_for(lambda: {"s1", "gone"} <= outside.there & beside.there)
        wait_for(lambda: (NAMES.live("n1", "1"), True) in inside)
        for closer in gone:
            closer.close()
        swapping = threading.Thread(target=lambda: [bus.swap() for _ in range(2)])
        swapping.start()
        during = bus.announce(NAMES.live("during", "1"))
        sent = 0
        while swapping.is_alive():
            node.publish(NAMES.beat("n1"), str(sent).encode())
            sent += 1
            assert gather(operator, NAMES.info("s1"), timeout_s=5).good
            time.sleep(0.02)
        wait_for(lambda: "during" in outside.there)
        assert not gather(operator, NAMES.log("s1"), timeout_s=1).good
        assert "s1" not in {*outside.left, *beside.left}
        assert [there for key, there in inside if key == NAMES.live("n1", "1")] == [True]
        assert len(set(heard)) > 0.9 * sent
        assert len(heard) < 1.1 * sent  # not everything twice, although both sessions hear it
        for closer in (token, during):
            closer.close()
        wait_for(lambda: {"s1", "during"} <= set(outside.left))


def test_after_a_rotation_the_old_is_cut_off_from_whatever_was_enrolled_again(home: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        routed = endpoint()
        folders = {
            name: ca.enroll(name, role).folder for name, role in (("hub", "router"), ("n1", "node"), ("n2", "node"))
        }
        ca.enroll("boss", "operator")
        hub = open_renewing_bus(Link(mode="router", listen=(routed,), identity=folders["hub"]), "router", poll_s=0.1)
        stack.callback(hub.close)
        tokens = []
        for name in ("n1", "n2"):
            node = open_renewing_bus(Link(connect=(routed,), identity=folders[name]), "node", poll_s=0.1)
            stack.callback(node.close)
            tokens.append(node.announce(NAMES.live(name, "1")))
        before = Members(hub)
        wait_for(lambda: before.there == {"n1", "n2"})

        assert [name for name, _ in ca.rotate().again] == ["boss", "hub", "n1", "n2"]
        ca.enroll("hub")
        wait_for(lambda: set(before.left) == {"n1", "n2"})
        ca.enroll("n1")
        wait_for(lambda: before.there == {"n1"})
        boss = open_bus(Link(mode="client", connect=(routed,), identity=ca.enroll("boss").folder), "operator")
        stack.callback(boss.close)
        members = Members(boss)
        wait_for(lambda: members.there == {"n1"})
        time.sleep(A_WHILE)
        assert members.there == before.there == {"n1"}


def test_a_node_links_to_no_router_of_another_ca(identities: Path) -> None:
    routed = endpoint()
    link = Link(mode="router", listen=(routed,), identity=identities / "another CA")
    with contextlib.closing(ZenohBus(link, "router", "rogue")) as rogue:
        members = Members(rogue)
        with contextlib.closing(open_bus(Link(connect=(routed,), identity=identities / "node"), "node")) as node:
            token = node.announce(NAMES.live("n1", "1"))
            time.sleep(A_WHILE)
            token.close()
        assert members.there == set()
        assert members.left == []


def test_identities_that_cannot_work_are_refused_in_words_before_anything_is_opened(identities: Path) -> None:
    where = Link(connect=(endpoint(),), identity=identities / "expired")
    with pytest.raises(FleetError, match="ended on"):
        open_renewing_bus(where, "node")
    with pytest.raises(FleetError, match="the identity of a client, and a node is started"):
        open_renewing_bus(replace(where, identity=identities / "client"), "node")
    with pytest.raises(UsageError, match="leaves this machine without encryption"):
        open_bus(Link(listen=("tcp/0.0.0.0:0",)), "node")
