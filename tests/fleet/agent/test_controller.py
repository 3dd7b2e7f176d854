"""What the elected node does when nobody looks: parts of a node that is gone, cuts that heal, nodes that come back."""

from __future__ import annotations

import pytest
from fleet.operated import Operated, bundle_of
from waiting import wait_for

from edgevit.fleet.agent.store import node_home
from edgevit.fleet.bus.messages import both
from edgevit.fleet.operating.deploy import deploy, drain, undeploy

MB = 1_000_000


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with Fleet.by(tmp_path_factory.mktemp("home"), 20 * MB) as made:
        yield made


class Fleet(Operated):
    def all_ready(self):
        return sorted(part for parts in self.ready().values() for part in parts)

    def known(self, name="flowers"):
        return self.operator.known()[name]

    def spared(self):
        """Whether every file of the deployment lies on two nodes."""
        release = self.operator.release(self.known().newest)
        stores = [node_home(name) / "blobs" for name in "abc"]
        return all(sum((store / blob).is_file() for store in stores) >= 2 for blob in release.sizes())

    def settled(self):
        """Whether every node knows the same order, and holds what it says."""
        known, ready = self.known(), self.ready()
        return set(map(repr, known.orders.values())) == {repr(known.newest)} and all(
            sorted(known.newest.nodes.get(node, ())) == parts for node, parts in ready.items()
        )


@pytest.fixture
def fleet(up):
    """The three nodes, holding nothing."""
    return up.emptied()


def test_the_parts_of_a_node_that_is_gone_are_given_to_others_even_of_the_controller_itself(fleet, tmp_path):
    gone = "a"
    done = deploy(bundle_of(tmp_path / "flowers").path, replace_after_s=1.0)
    wait_for(fleet.spared)
    fleet.running.kill(gone)
    wait_for(lambda: fleet.all_ready() == ["part-0", "part-1", "part-2"])
    wait_for(fleet.settled)
    newest = fleet.known().newest
    assert newest.epoch == done.generation[0]
    assert newest.step >= 1
    fleet.start(gone)
    wait_for(lambda: gone in fleet.infos() and fleet.settled())
    assert fleet.ready()[gone] == sorted(done.nodes[gone])


def test_a_node_that_is_back_in_time_keeps_its_parts(fleet, tmp_path):
    done = deploy(bundle_of(tmp_path / "flowers").path, replace_after_s=60.0)
    fleet.running.kill("b")
    fleet.start("b")
    wait_for(lambda: "b" in fleet.infos() and fleet.settled())
    assert fleet.known().newest.generation == done.generation


def test_parts_without_room_elsewhere_wait_for_their_node(fleet, tmp_path):
    done = deploy(bundle_of(tmp_path / "flowers", parts=9).path, replace_after_s=1.0)
    assert [len(parts) for parts in done.nodes.values()] == [3, 3, 3]
    fleet.running.kill("b")
    wait_for(lambda: sorted(fleet.infos()) == ["a", "c"])
    before = fleet.ready()
    fleet.start("b")
    wait_for(lambda: "b" in fleet.infos() and len(fleet.ready()["b"]) == 3)
    assert {node: fleet.ready()[node] for node in "ac"} == before
    assert fleet.known().newest.generation == done.generation


def test_what_was_withdrawn_while_a_node_was_away_is_withdrawn_there_too(fleet, tmp_path):
    deploy(bundle_of(tmp_path / "flowers").path, replace_after_s=60.0)
    fleet.running.kill("c")
    wait_for(lambda: sorted(fleet.infos()) == ["a", "b"])
    undeploy("flowers")
    fleet.start("c")
    wait_for(lambda: "c" in fleet.infos() and fleet.known().orders.get("c") == fleet.known().newest)
    wait_for(lambda: fleet.ready() == {"a": [], "b": [], "c": []})


def test_after_a_cut_has_healed_all_come_to_the_same(fleet, tmp_path):
    deploy(bundle_of(tmp_path / "flowers").path, replace_after_s=60.0)
    known = fleet.known().newest
    everything = ("part-0", "part-1", "part-2")

    def taken(side):
        """As the controller on that side of a cut would have it."""
        nodes = both(known.nodes, {side: everything})
        return fleet.operator.give(
            "apply", known.model_copy(update={"step": 1, "nodes": nodes}), [side], lambda *_: None
        )

    assert [taken(side) for side in "ab"] == [{}, {}]
    wait_for(lambda: {node: len(parts) for node, parts in fleet.ready().items()} == {"a": 3, "b": 3, "c": 1})
    wait_for(fleet.settled)
    assert fleet.known().newest.given == known.nodes
    assert not fleet.known().conflict


def test_a_replica_that_was_lost_is_made_again(fleet, tmp_path):
    deploy(bundle_of(tmp_path / "flowers", parts=2).path, replicas=2, replace_after_s=1.0)
    lost = next(node for node, parts in fleet.ready().items() if parts)
    fleet.running.kill(lost)
    wait_for(lambda: fleet.all_ready() == ["part-0", "part-0", "part-1", "part-1"])
    fleet.start(lost)
    wait_for(lambda: lost in fleet.infos() and fleet.settled())


def test_nothing_is_given_to_a_drained_node(fleet, tmp_path):
    drain("a")
    try:
        deploy(bundle_of(tmp_path / "flowers", parts=2).path, replace_after_s=1.0)
        wait_for(fleet.spared)
        fleet.running.kill("b")
        wait_for(lambda: fleet.ready().get("c") == ["part-0", "part-1"])
        assert fleet.ready()["a"] == []
        fleet.start("b")
        wait_for(lambda: "b" in fleet.infos() and fleet.settled())
    finally:
        drain("a", undo=True)
