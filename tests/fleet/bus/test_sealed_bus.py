"""What one node's certificate is good for: its own questions and answers, over real TLS, and nothing of others.

The rogue is a node of the fleet whose own rules are off: it declares and asks whatever it likes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fleet.fleet_nodes import free_port
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_for

from edgevit.errors import FleetError, UsageError
from edgevit.fleet.bus import envelopes, zenoh_bus
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import BadMessage
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.seals import Seals, opened_once, sealed_once
from edgevit.fleet.bus.transport import Answer, Bus, Question, gather
from edgevit.fleet.bus.zenoh_bus import ZenohBus
from edgevit.fleet.trust import ca

NAMES = Names()
SHA = "a" * 64
INFER = NAMES.infer(SHA, "part-0", "n1")


@dataclass
class Site:
    """A node, who asks it as client and as operator, and a rogue: as edgevit opens its bus, and as Zenoh would."""

    folder: Path
    where: str
    n1: Bus
    client: Bus
    operator: Bus
    rogue: Bus
    raw: Bus
    read: list[bytes] = field(default_factory=list)  # what the rogue could read of questions

    def take(self, question: Question) -> None:
        """The rogue's handler of everything: reads, answers, and refuses."""
        self.read.append(question.payload())
        question.answer(b"forged", b'{"forged":true}')
        question.finish()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("sealed")
    settings = zenoh_bus.settings
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("EDGEVIT_HOME", str(folder / "home"))
        ca.init_ca()
        for name, role in (("n1", "node"), ("rogue", "node"), ("cl", "client"), ("op", "operator")):
            ca.enroll(name, role, out=folder / name)  # type: ignore[arg-type]
        where = f"tls/127.0.0.1:{free_port()}"

        def opened(who: str, role: str, engine: Callable[..., Bus] = open_bus) -> Bus:
            link = Link(connect=(where,), identity=folder / who)
            return stack.enter_context(closing(engine(link, role, who)))

        n1 = stack.enter_context(closing(open_bus(Link(listen=(where,), identity=folder / "n1"), "node", "n1")))
        client, operator = opened("cl", "client"), opened("op", "operator")
        patch.setattr(zenoh_bus, "settings", lambda *a: {**settings(*a), "access_control": {"enabled": False}})
        made = Site(folder, where, n1, client, operator, opened("rogue", "node"), opened("rogue", "node", ZenohBus))
        for key in (INFER, NAMES.info("n1"), NAMES.order("n1", "apply"), NAMES.blob("*", "n1"), NAMES.log("n1")):
            n1.serve(key, echo)
        for rogue in (made.rogue, made.raw):
            for key in ("infer/**", "info/**", "order/**", "blob/**", "log/**", "hello/**"):
                rogue.serve(f"{NAMES.root}/{key}", made.take)
            for key in (INFER, NAMES.info("n1"), NAMES.order("n1", "apply"), NAMES.hello("n1")):
                rogue.serve(key, made.take)
        wait_for(lambda: gather(client, NAMES.info("n1"), timeout_s=1).good)
        wait_for(lambda: gather(operator, NAMES.info("n1"), timeout_s=1).good)
        gather(client, NAMES.info("rogue"), timeout_s=1)
        made.read.clear()
        yield made


def echo(question: Question) -> None:
    if question.meta == b'{"refuse":true}':
        question.refuse("busy")
        return
    question.answer(question.payload(), question.meta)
    question.finish()


def test_a_question_is_answered_by_the_node_that_it_is_to_and_read_by_nobody_else(site: Site) -> None:
    for number in range(5):
        secret = f"image {number}".encode() * 1000
        reply = gather(site.client, INFER, payload=secret, meta=b'{"id":7}', timeout_s=5)
        assert [(one.payload, one.meta, one.by) for one in reply.answers] == [(secret, b'{"id":7}', "n1")]
    time.sleep(0.3)
    assert not any(b"image" in read for read in site.read)


@pytest.mark.parametrize("key", [NAMES.order("n1", "apply"), NAMES.log("n1"), NAMES.blob(SHA, "n1")])
def test_what_an_operator_asks_is_as_much_the_nodes_own(site: Site, key: str) -> None:
    reply = gather(site.operator, key, payload=b"an order", timeout_s=5)
    assert [(one.payload, one.by) for one in reply.answers] == [(b"an order", "n1")]
    assert b"an order" not in site.read


def test_a_refusal_is_the_nodes_own_too(site: Site) -> None:
    reply = gather(site.client, INFER, meta=b'{"refuse":true}', timeout_s=5)
    assert [(one.refused, one.by) for one in reply.answers] == [("busy", "n1")]


def test_of_a_question_to_all_nobody_answers_for_somebody_else(site: Site) -> None:
    reply = gather(site.client, NAMES.info(), timeout_s=2, expected=None)
    assert {(one.key, one.by) for one in reply.good} == {(NAMES.info("n1"), "n1")}
    with closing(site.rogue.serve(NAMES.info("rogue"), echo)):
        wait_for(lambda: len(gather(site.client, NAMES.info(), timeout_s=1, expected=None).good) == 2)
        reply = gather(site.client, NAMES.info(), timeout_s=2, expected=None)
        assert {(one.key, one.by) for one in reply.good} == {(NAMES.info(who), who) for who in ("n1", "rogue")}


def test_a_nodes_own_answers_to_a_question_that_any_may_answer_say_whose_they_are(site: Site) -> None:
    with closing(site.rogue.serve(NAMES.place(), site.take)), closing(site.n1.serve(NAMES.place(), echo)):
        wait_for(lambda: len(gather(site.client, NAMES.place("x"), timeout_s=1, expected=None).good) == 2)
        reply = gather(site.client, NAMES.place("x"), timeout_s=2, expected=None)
        assert {(one.payload, one.by) for one in reply.good} == {(b"forged", "rogue"), (b"", "n1")}


def test_a_beat_counts_from_its_node_alone(site: Site) -> None:
    heard: list[tuple[str, bytes]] = []
    with closing(site.client.listen(NAMES.beat(), lambda key, data: heard.append((key, data)))):

        def publish() -> bool:
            for bus, data in ((site.n1, b"mine"), (site.rogue, b"forged"), (site.raw, b"forged")):
                bus.publish(NAMES.beat("n1"), data)
            site.rogue.publish(NAMES.beat("rogue"), b"its own")
            return {data for _, data in heard} >= {b"mine", b"its own"}

        wait_for(publish)
        time.sleep(0.2)
    assert set(heard) == {(NAMES.beat("n1"), b"mine"), (NAMES.beat("rogue"), b"its own")}


def test_a_node_takes_no_question_that_is_not_sealed_for_it(site: Site) -> None:
    taken: list[bytes] = []
    key = NAMES.order("n1", "drain")
    with closing(site.n1.serve(key, lambda one: (taken.append(one.payload()), echo(one)))):
        wait_for(lambda: gather(site.operator, key, payload=b"sealed", timeout_s=1).good)
        assert b"plain" not in {one.payload for one in gather(site.raw, key, payload=b"plain", timeout_s=0.5).answers}
    assert set(taken) == {b"sealed"}


def test_a_node_is_called_as_its_certificate_says(site: Site) -> None:
    with pytest.raises(UsageError, match="is the identity of rogue, and the node is called n1"):
        open_bus(Link(connect=(site.where,), identity=site.folder / "rogue"), "node", "n1")


@pytest.mark.parametrize(("who", "role"), [("cl", "operator"), ("n1", "operator"), ("n1", "client"), ("op", "node")])
def test_a_certificate_of_another_role_is_refused_in_words_before_anything_is_asked(
    site: Site, who: str, role: str
) -> None:
    with pytest.raises(FleetError, match=r"is the identity of an? \w+, and an? \w+ is started") as refused:
        open_bus(Link(connect=(site.where,), identity=site.folder / who), role)  # type: ignore[arg-type]
    assert f"--role {role}" in (refused.value.hint or "")


# --- byte by byte -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ends(site: Site) -> tuple[Seals, Seals, Seals]:
    """Who asks, who is asked, and a rogue."""
    return Seals(site.folder / "cl"), Seals(site.folder / "n1"), Seals(site.folder / "rogue")


@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_question_opens_as_it_was_sealed_or_not_at_all(ends: tuple[Seals, Seals, Seals], at: int, bit: int) -> None:
    asker, asked, rogue = ends
    content, data = sealed_once(b"pixels")
    _, beside = envelopes.sealed_question(asker, asked.own, INFER, content, b'{"id":1}')
    found = envelopes.opened_question(asked, INFER, beside)
    assert found is not None
    assert (found.meta, opened_once(found.content, data), found.asker.name) == (b'{"id":1}', b"pixels", "cl")
    assert envelopes.opened_question(rogue, INFER, beside) is None
    with pytest.raises(BadMessage):
        envelopes.opened_question(asked, NAMES.infer(SHA, "part-1", "n1"), beside)
    at %= len(beside) - 1
    altered = bytearray(beside)
    altered[at + 1] ^= 1 << bit
    with suppress(BadMessage):
        assert envelopes.opened_question(asked, INFER, bytes(altered)) is None


@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_an_answer_opens_for_its_question_alone(ends: tuple[Seals, Seals, Seals], at: int, bit: int) -> None:
    asker, asked, _ = ends
    seal = asked.for_answers(asker.own, asking=False)
    opens = asker.for_answers(asked.own, asking=True)
    payload, beside = envelopes.sealed_answer(seal, b"n" * 12, INFER, False, b"features", b"{}")
    answer = Answer(INFER, payload, beside)
    assert envelopes.opened_answer(opens, b"n" * 12, "n1", answer) == Answer(INFER, b"features", b"{}", None, "n1")
    altered = bytearray(payload)
    altered[at % len(payload)] ^= 1 << bit
    for wrong in (
        lambda: envelopes.opened_answer(opens, b"m" * 12, "n1", answer),
        lambda: envelopes.opened_answer(opens, b"n" * 12, "n1", Answer(NAMES.info("n1"), payload, beside)),
        lambda: envelopes.opened_answer(opens, b"n" * 12, "n1", Answer(INFER, bytes(altered), beside)),
        lambda: envelopes.opened_answer(opens, b"n" * 12, "n1", Answer(INFER, b"features", b"{}")),
    ):
        with pytest.raises(BadMessage):
            wrong()


@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_signed_answer_counts_as_it_was_signed_or_not_at_all(
    ends: tuple[Seals, Seals, Seals], at: int, bit: int
) -> None:
    asker, asked, rogue = ends
    key = NAMES.info("n1")
    beside = envelopes.signed_answer(asked, b"n" * 12, key, False, b"here", b"{}")
    found, papers = envelopes.checked_answer(asker, b"n" * 12, Answer(key, b"here", beside))
    assert (found, papers.name) == (Answer(key, b"here", b"{}", None, "n1"), "n1")
    forged = envelopes.signed_answer(rogue, b"n" * 12, key, False, b"here", b"{}")
    altered = bytearray(beside)
    altered[at % len(beside)] ^= 1 << bit
    for answer in (
        Answer(key, b"there", beside),
        Answer(key, b"here", forged),
        Answer(key, b"here", bytes(altered)),
        Answer(NAMES.info("n2"), b"here", beside),
    ):
        with pytest.raises(BadMessage):
            envelopes.checked_answer(asker, b"n" * 12, answer)


@given(st.binary(max_size=1200))
def test_noise_is_a_bad_message(ends: tuple[Seals, Seals, Seals], noise: bytes) -> None:
    asker, asked, _ = ends
    seal = asker.for_answers(asked.own, asking=True)
    for call in (
        lambda: envelopes.opened_answer(seal, b"n" * 12, "n1", Answer(INFER, noise, b"\x01" + noise)),
        lambda: envelopes.checked_answer(asker, b"n" * 12, Answer(NAMES.info("n1"), b"", b"\x02" + noise)),
        lambda: envelopes.checked_message(asker, NAMES.beat("n1"), b"\x02" + noise),
    ):
        with pytest.raises(BadMessage):
            call()
    with suppress(BadMessage):
        assert envelopes.opened_question(asked, INFER, b"\x01" + noise) is None


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (INFER, ("infer", "n1")),
        (NAMES.info(), ("info", None)),
        (NAMES.blob(SHA), ("blob", None)),
        (f"{NAMES.root}/blob/**", ("blob", None)),
        (f"{NAMES.root}/**", (None, None)),
        (NAMES.place("digits"), ("place", None)),
        (NAMES.ca("renew"), (None, None)),
        (NAMES.live("n1", "1"), (None, None)),
        ("", (None, None)),
    ],
)
def test_a_key_says_whose_it_is(key: str, found: tuple[str | None, str | None]) -> None:
    assert envelopes.whose(key) == found
