"""A node inside the CA that lies: real node processes over mutual TLS, and one certificate whose own rules are off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fleet.fleet_nodes import Processes, edgevit, free_port, wait_live
from fleet.tiny_fleet import make_bundle
from waiting import wait_for

from edgevit.bundle.embedded import BundleSession
from edgevit.fleet.agent.known import known_orders
from edgevit.fleet.agent.node import NAMESAKE_S
from edgevit.fleet.agent.release import pack
from edgevit.fleet.agent.shipping import Piece, Piecemeal
from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.bus import zenoh_bus
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_GENERATION, Placement, both, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Question, gather
from edgevit.fleet.operating.deploy import deploy, drain, rebalance, undeploy
from edgevit.fleet.operating.operator import Operator
from edgevit.fleet.trust import ca
from edgevit.fleet.trust.signatures import trusted_keys, trusts

NAMES = Names()
NODES = ("n1", "n2", "n3")


@dataclass
class Site:
    folder: Path
    ends: tuple[str, ...]
    bundle: Path
    rogue: Bus  # of a node that holds nothing
    running: Processes

    def link(self, who: str) -> Link:
        return Link(connect=self.ends, identity=self.folder / who)

    @property
    def operator(self) -> Link:
        return self.link("op")

    def known(self) -> Placement:
        keys = trusted_keys(self.folder / "op")
        return known_orders(self.rogue, NAMES, accept=lambda one: trusts(one, keys))["flowers"].newest

    def forged(self, **changes: object) -> Placement:
        return self.known().model_copy(update={"signature": "0" * 128, **changes})

    def answers_with(self, order: Placement) -> closing:  # type: ignore[type-arg]
        """As long as it is open, the rogue answers every question for orders with this one."""

        def tell(question: Question) -> None:
            question.answer(order.encode(), b'{"node":"n1"}')
            question.finish()

        return closing(self.rogue.serve(NAMES.place("*"), tell))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hostile")
    settings = zenoh_bus.settings
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("EDGEVIT_HOME", str(folder / "home"))
        (folder / "home").mkdir()
        ca.init_ca()
        for who in (*NODES, "rogue"):
            ca.enroll(who, out=folder / who)
        ca.enroll("op", "operator", out=folder / "op")
        ca.enroll("cl", "client", out=folder / "cl")
        ends = tuple(f"tls/127.0.0.1:{free_port()}" for _ in NODES)
        running = stack.enter_context(Processes(folder / "home"))
        for who, end in zip(NODES, ends, strict=True):
            more = ("--listen", end, *(("--connect", ends[0]) if end != ends[0] else ()))
            running.run(who, edgevit("node", "--identity", folder / who, *more, "--threads", 1, "--memory", "60MB"))
        bundle = make_bundle(folder / "flowers", 3)
        wait_live(Link(connect=ends, identity=folder / "op"), *NODES)
        patch.setattr(zenoh_bus, "settings", lambda *a: {**settings(*a), "access_control": {"enabled": False}})
        rogue = open_bus(Link(connect=ends, identity=folder / "rogue"), "node", "rogue")
        patch.setattr(zenoh_bus, "settings", settings)
        stack.callback(rogue.close)
        yield Site(folder, ends, bundle, rogue, running)


@pytest.fixture
def deployed(site: Site) -> Site:
    deploy(site.bundle, site.operator, name="flowers")
    return site


def test_an_order_that_a_node_made_up_is_signed_by_no_operator_and_its_node_is_named(deployed: Site) -> None:
    honest, evil = deployed.known(), "f" * 64
    for changes in ({"release": evil}, {"nodes": {"n1": ("part-0", "part-1", "part-2")}}, {"epoch": MAX_GENERATION}):
        with deployed.answers_with(deployed.forged(**{"epoch": honest.epoch + 5, **changes})):
            done = rebalance("flowers", deployed.operator)
            emptied = drain("n1", deployed.operator)
            drain("n1", deployed.operator, undo=True)
        for notes in (done.notes, emptied.notes):
            assert "rogue answers with an order that no trusted operator signed: it is ignored" in notes
        assert deployed.known().release == honest.release
    withdrawn = deployed.forged(epoch=honest.epoch + 50)
    with deployed.answers_with(withdrawn):
        assert undeploy("flowers", deployed.operator).told == NODES
    assert deployed.known().withdrawn
    assert deployed.known().epoch < honest.epoch + 50


@pytest.mark.parametrize("epoch", [MAX_GENERATION, MAX_GENERATION + 1, 10**4299], ids=["highest", "beyond", "endless"])
def test_no_claimed_epoch_blocks_a_name(deployed: Site, epoch: int) -> None:
    before = deployed.known().epoch
    with deployed.answers_with(deployed.forged(epoch=epoch)):
        done = deploy(deployed.bundle, deployed.operator, name="flowers")
    assert done.generation == (before + 1, 0)
    assert any("rogue" in note and "ignored" in note for note in done.notes)
    assert deploy(deployed.bundle, deployed.operator, name="flowers").generation == (before + 2, 0)


def test_a_raised_step_unloads_nothing_and_moves_nothing(deployed: Site) -> None:
    known = deployed.known()
    for nodes in ({}, {"rogue": ("part-0", "part-1", "part-2")}, both(known.nodes, {"rogue": ("part-0",)})):
        for step in (1, MAX_GENERATION):
            forged = known.model_copy(update={"step": step, "nodes": nodes})
            for node in NODES:
                reply = gather(deployed.rogue, NAMES.order(node, "apply"), payload=forged.encode(), timeout_s=5)
                assert [one.by for one in reply.answers] == [node]
                assert "does not give nodes what its operator gave them" in reply.refusals[0]
    assert deployed.known() == known
    with Operator.on(deployed.operator) as operator:
        held = {one.node: {part.part for part in one.held if part.state == "ready"} for one in operator.nodes()}
    assert {node: held[node] for node in known.given if known.given[node]} == {
        node: set(parts) for node, parts in known.given.items() if parts
    }


def test_wrong_bytes_from_a_node_block_no_deployment(site: Site, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", 3, seed=3)
    packed = pack(other)
    sizes = {sha256: Path(file).stat().st_size for sha256, file in packed.files.items()}
    sizes[packed.sha256] = len(packed.data)

    def lie(question: Question) -> None:
        asked = parse(Piece, question.meta)
        size = sizes.get(asked.sha256, 1000)
        data = b"\xee" * min(asked.len, max(size - asked.off, 0))
        question.answer(data, Piecemeal(node="rogue", bytes=size).encode())
        question.finish()

    with (
        closing(site.rogue.serve(NAMES.blob("*", "rogue"), lie)),
        closing(site.rogue.serve(f"{NAMES.root}/blob/**", lie)),
    ):
        time.sleep(0.5)
        done = deploy(other, site.operator, name="other")
    assert {part for parts in done.nodes.values() for part in parts} == {"part-0", "part-1", "part-2"}
    undeploy("other", site.operator)


def test_a_part_that_a_node_announces_and_was_not_given_is_not_asked_of_it(deployed: Site) -> None:
    asked: list[str] = []
    with ExitStack() as stack:
        revision = pack(deployed.bundle).release.revision
        for part in ("part-0", "part-1", "part-2"):
            key = NAMES.infer(revision, part, "rogue")
            stack.enter_context(closing(deployed.rogue.serve(key, lambda one: (asked.append(one.key), one.finish()))))
            stack.enter_context(closing(deployed.rogue.announce(NAMES.ready(revision, part, "rogue", "i"))))
        stack.enter_context(closing(deployed.rogue.announce(NAMES.live("rogue", "i"))))
        bus = stack.enter_context(closing(open_bus(deployed.link("cl"), "client")))
        client = FleetClient(bus, NAMES)
        stack.callback(client.close)
        session = stack.enter_context(BundleSession(deployed.bundle, threads=1))
        assert client.wait(revision, session.names, 20) == set(session.names)
        images = np.random.default_rng(1).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
        expected = session.infer(session.rows(list(images)))["logits"]
        fleet = stack.enter_context(FleetSession(deployed.bundle, client))
        for image, row in zip(images, expected, strict=True):
            answer = fleet.answer(image, 5.0)
            assert not answer.degraded
            np.testing.assert_allclose(answer.logits[0], row, atol=1e-4)
        assert all("rogue" not in client.replicas(revision, part) for part in session.names)
    assert asked == []


def test_a_node_does_not_leave_because_another_one_takes_its_name(deployed: Site) -> None:
    with closing(deployed.rogue.announce(NAMES.live("n2", "000000000000-0"))):
        time.sleep(NAMESAKE_S + 2.0)
        with Operator.on(deployed.operator) as operator:
            wait_for(lambda: "n2" in {one.node for one in operator.nodes()})


def test_a_candidate_that_is_announced_and_is_none_stops_no_takeover(deployed: Site) -> None:
    deploy(deployed.bundle, deployed.operator, name="flowers", replace_after_s=1.0)
    known = deployed.known()
    lost = next(node for node in ("n3", "n2") if known.given.get(node))
    with closing(deployed.rogue.announce(NAMES.control("a-node", "1"))):
        time.sleep(1.0)
        deployed.running.kill(lost)
        wait_for(
            lambda: (
                {part for node, parts in deployed.known().nodes.items() if node != lost for part in parts}
                >= set(known.given[lost])
            ),
            40,
        )
