"""Deploying to real node processes, and what an operator does afterwards."""

from __future__ import annotations

import itertools
import json
import signal
import threading

import pytest
from fleet.heavy_bundle import heavy_bundle
from fleet.operated import Operated, bundle_of
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_for

from edgevit.bundle.assign import Node, Part
from edgevit.bundle.opened import Bundle
from edgevit.bundle.plan import Plan, PlannedNode, write_plan
from edgevit.errors import FleetError, PlacementImpossible, UnknownName, UsageError
from edgevit.fleet.agent import placing
from edgevit.fleet.agent.orders import Kept, Orders
from edgevit.fleet.agent.store import node_home
from edgevit.fleet.bus.messages import Held, Info, Placement
from edgevit.fleet.bus.transport import gather
from edgevit.fleet.operating.deploy import Deployed, deploy, deployed_here, drain, rebalance, undeploy

MB = 1_000_000


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """Three nodes, and an operator who looks at them."""
    with Fleet.by(tmp_path_factory.mktemp("home"), 60 * MB) as made:
        yield made


class Fleet(Operated):
    def revisions(self):
        return {one.revision for info in self.infos().values() for one in info.held if one.state == "ready"}

    def restart(self, name, number=signal.SIGKILL):
        self.running.kill(name, number=number)
        self.start(name)


@pytest.fixture
def fleet(up):
    """The same three, holding nothing."""
    return up.emptied()


# --- placing ---------------------------------------------------------------------------------------------------------


def part(row, macs=100, memory=10):
    return Part(f"part-{row}", bytes=1, memory_bytes=memory, macs=macs, feature_bytes=1)


@given(parts=st.lists(st.integers(1, 100), min_size=1, max_size=6), count=st.integers(1, 7), replicas=st.integers(1, 2))
@settings(deadline=None, max_examples=40)
def test_equal_nodes_get_one_part_each_before_any_gets_two(parts, count, replicas):
    replicas = min(replicas, count)
    where = placing.place(
        [part(row, macs) for row, macs in enumerate(parts)],
        [Node(f"n{row}", 1000, 1e6) for row in range(count)],
        replicas,
    )
    held = [len(where.get(f"n{row}", ())) for row in range(count)]
    assert sum(held) == len(parts) * replicas
    assert max(held) == 1 or min(held) >= 1


@given(
    memory=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    parts=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 20)), min_size=1, max_size=5),
    replicas=st.integers(1, 3),
    now=st.dictionaries(st.integers(0, 6), st.sets(st.integers(0, 4)), max_size=4),
)
@settings(deadline=None, max_examples=60)
def test_filling_moves_nothing_and_exceeds_nothing(memory, parts, replicas, now):
    made = [part(row, macs, size) for row, (macs, size) in enumerate(parts)]
    need = {one.name: one.memory_bytes for one in made}
    spots = [Node(f"n{row}", size, 1e6) for row, size in enumerate(memory)]
    before = {f"n{node}": tuple(f"part-{row}" for row in sorted(rows)) for node, rows in now.items()}
    kept = {
        node: [name for name in before.get(node, ()) if name in need and sum(b[1] for b in parts) <= size]
        for node, size in ((spot.name, spot.memory_bytes) for spot in spots)
    }
    where = placing.fill(made, spots, kept, replicas)
    for spot in spots:
        assert sum(need[name] for name in where.get(spot.name, ())) <= spot.memory_bytes
    for name in need:
        holders = [node for node, names in where.items() if name in names]
        assert len(holders) == len(set(holders)) <= replicas
        stayed = [node for node, names in kept.items() if name in names]
        assert len(stayed) > replicas or set(stayed) <= set(holders)


def test_a_rebalance_that_gains_nothing_moves_nothing():
    parts, spots = [part(row) for row in range(4)], [Node(f"n{row}", 1000, 1e6) for row in range(4)]
    now = {"n0": ("part-2",), "n1": ("part-0",), "n2": ("part-3",), "n3": ("part-1",)}
    assert placing.better(parts, spots, now) == now


def test_a_rebalance_uses_a_node_that_came_back_and_a_faster_one():
    parts = [part(row) for row in range(4)]
    now = {"n0": ("part-0", "part-3"), "n1": ("part-1",), "n2": ("part-2",)}
    spots = [Node(f"n{row}", 1000, 1e6) for row in range(4)]
    assert sorted(map(len, placing.better(parts, spots, now).values())) == [1, 1, 1, 1]
    fast = [*spots[:3], Node("fast", 1000, 1e8)]
    assert len(placing.better(parts, fast, now)["fast"]) == 4


def info(name, free, held=(), drained=False, rate=None):
    return Info(
        node=name, incarnation="i", edgevit="0", arch="x", system="x", python="3", cores=1, runtimes=(),
        memory_bytes=100, free_bytes=free, macs_per_s=rate, drained=drained, held=held, started="now",
    )  # fmt: skip


def test_drained_nodes_are_no_candidates_and_what_is_held_counts_as_room():
    held = (Held(revision="1" * 64, part="part-0", deployment="d", state="ready", memory_bytes=30),)
    found = placing.candidates([info("a", 10, held), info("b", 50, drained=True), info("c", 20, rate=5e6)], "1" * 64)
    assert [(node.name, node.memory_bytes, node.macs_per_s) for node in found] == [("a", 40, 5e6), ("c", 20, 5e6)]


@given(st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 5)), max_size=5), st.lists(st.integers(0, 9)))
def test_every_part_has_its_files_on_one_node_more_than_hold_it_where_there_is_one(held, others):
    where = {f"n{node}": tuple(f"part-{row}" for row in sorted(rows)) for node, rows in held.items()}
    where = placing.with_spare(where, [f"n{node}" for node in others])
    for name in {one for parts in where.values() for one in parts}:
        holders = {node for node, parts in where.items() if name in parts}
        spare = {node for node in where if name in placing.spares(where, node)}
        assert not holders & spare
        assert len(holders | spare) == min(len(holders) + 1, len(where))
    idle = {f"n{node}" for node in others} - where.keys()
    assert not idle or not where or not set.intersection(*map(set, where.values()))


@pytest.mark.parametrize("count", [4, 6, 8])
def test_any_half_of_the_nodes_has_the_files_of_all_parts_with_as_many_replicas(count):
    parts = [part(row) for row in range(count)]
    where = placing.place(parts, [Node(f"n{row}", 1000, 1e6) for row in range(count)], count // 2)
    have = {name: {*where[name], *placing.spares(where, name)} for name in where}
    for half in itertools.combinations(where, count // 2):
        assert set.union(*(have[name] for name in half)) == {one.name for one in parts}


# --- what a node keeps -----------------------------------------------------------------------------------------------

an_order = st.fixed_dictionaries(
    {
        "epoch": st.integers(1, 3),
        "step": st.integers(0, 2),
        "withdrawn": st.booleans(),
        "revision": st.sampled_from(["1" * 64, "2" * 64]),
        "nodes": st.dictionaries(st.sampled_from("ab"), st.sampled_from([(), ("part-0",), ("part-0", "part-1")])),
    }
)


@given(st.lists(st.tuples(an_order, st.booleans()), max_size=8))
@settings(deadline=None, max_examples=50)
def test_generations_only_rise_and_what_ran_is_kept_until_it_is_replaced_also_over_restarts(tmp_path_factory, orders):
    root, settled = tmp_path_factory.mktemp("node"), None
    book = Orders(root, "a", dict)
    for fields, settles in orders:
        if fields["withdrawn"]:
            fields = {**fields, "nodes": {}}
        order = Placement(
            name="flowers", kind="bundle", release="0" * 64, key="0" * 64, signature="0" * 128, **fields
        )  # fmt: skip
        known = book.known().get("flowers")
        try:
            book.fence(order)
        except FleetError:
            assert known is not None
            assert order != known
            assert order.generation <= known.generation
            continue
        running = {(settled.revision, one) for one in settled.nodes.get("a", ())} if settled else set()
        book.keep(book.accepted(order, running.__contains__))
        book = Orders(root, "a", dict)
        order = order if known is None or not order.same(known) else known.joined(order)
        assert book.known()["flowers"] == order
        mine = {(order.revision, one) for one in order.nodes.get("a", ())}
        assert book.wanted() == (mine if order.withdrawn else mine | running)
        if settles or order.withdrawn or settled is None or settled.withdrawn:
            book.keep(Kept(newest=order))
            settled = order


def test_an_order_of_which_nothing_runs_here_is_not_kept_beside_the_next(tmp_path):
    orders = [
        Placement(
            name="flowers", kind="bundle", release="0" * 64, key="0" * 64, signature="0" * 128, epoch=epoch,
            revision=str(epoch) * 64, nodes={"a": ("part-0",)},
        )
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    book = Orders(tmp_path, "a", dict)
    for order, runs in zip(orders, (False, False, True), strict=True):
        book.keep(book.accepted(order, lambda key, runs=runs: runs))
    assert book.kept()["flowers"] == Kept(newest=orders[2], before=orders[1])
    assert book.wanted() == {("3" * 64, "part-0"), ("2" * 64, "part-0")}, "the first failed, and is wanted no longer"


# --- deploying -------------------------------------------------------------------------------------------------------


def test_a_bundle_is_deployed_one_part_a_node_and_withdrawn_again(fleet, tmp_path):
    bundle, heard = bundle_of(tmp_path / "flowers"), []
    done = deploy(bundle.path, on_progress=lambda *said: heard.append(said))
    assert sorted(done.nodes.values()) == [("part-0",), ("part-1",), ("part-2",)]
    assert fleet.ready() == {node: list(parts) for node, parts in done.nodes.items()}
    assert fleet.revisions() == {bundle.sha256}
    assert deployed_here(bundle.sha256)
    for node in "abc":
        stages = [stage for name, stage, _ in heard if name == node]
        assert list(dict.fromkeys(stages)) == ["checking", "pulling", "loading", "ready"]
        shares = [share for name, stage, share in heard if (name, stage) == (node, "pulling")]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    json.dumps(done.record())
    again = deploy(bundle.path)
    assert again.nodes == done.nodes
    assert again.generation > done.generation
    gone = undeploy("flowers")
    assert gone.told == ("a", "b", "c")
    assert not any(fleet.ready().values())
    assert not deployed_here(bundle.sha256)
    assert not list((node_home("a") / "parts").glob("*/*"))
    with pytest.raises(UnknownName):
        undeploy("flowers")


def test_an_artifact_is_deployed_with_replicas(fleet, tmp_path):
    bundle = bundle_of(tmp_path / "flowers", parts=1)
    done = deploy(bundle.path / "part-0", replicas=2)
    assert list(done.nodes.values()) == [("model",), ("model",)]
    assert fleet.ready() == {"a": [], "b": [], "c": []} | {node: list(parts) for node, parts in done.nodes.items()}


def test_a_plan_or_a_fleet_file_is_followed_and_another_bundles_plan_is_not(fleet, tmp_path):
    bundle = bundle_of(tmp_path / "flowers", parts=2)

    def planned(sha256, **where):
        rows = tuple(
            PlannedNode(
                node=node, parts=parts, latency_ms=1, memory_bytes=1, free_bytes=1, macs=1, margin=0.5,
                latency_from=dict.fromkeys(parts, "rate"),
            )
            for node, parts in where.items()
        )  # fmt: skip
        return Plan(
            bundle_sha256=sha256, replicas=1, nodes=rows, max_latency_ms=1, accuracy=None,
            accuracy_if_lost=dict.fromkeys(where),
        )  # fmt: skip

    with pytest.raises(UsageError, match="another bundle"):
        deploy(bundle.path, plan=planned("0" * 64, a=("part-0", "part-1")))
    with pytest.raises(UsageError, match="part-1"):
        deploy(bundle.path, plan=planned(bundle.sha256, a=("part-0",)))
    with pytest.raises(FleetError, match="z is not there; found a, b, c"):
        deploy(bundle.path, plan=planned(bundle.sha256, a=("part-0",), z=("part-1",)))
    file = tmp_path / "plan.json"
    write_plan(planned(bundle.sha256, b=("part-0", "part-1"), a=()), file)
    deploy(bundle.path, plan=file)
    assert fleet.ready() == {"a": [], "b": ["part-0", "part-1"], "c": []}
    nodes = "".join(
        f'[[node]]\nname = "{name}"\nmemory = "1GB"\nmacs_per_s = "{rate}"\n'
        for name, rate in (("a", "1G"), ("z", "1T"))
    )
    (tmp_path / "fleet.toml").write_text(nodes)
    done = deploy(bundle.path, fleet=tmp_path / "fleet.toml")
    assert done.nodes == {"a": ("part-0", "part-1")}
    wait_for(lambda: fleet.ready() == {"a": ["part-0", "part-1"], "b": [], "c": []})


def test_without_room_nothing_is_deployed_and_what_ran_runs_on(fleet, tmp_path):
    old = bundle_of(tmp_path / "flowers")
    deploy(old.path)
    before = fleet.ready()
    heavy = heavy_bundle(tmp_path / "heavy", 32 * MB)
    with pytest.raises(PlacementImpossible) as caught:
        deploy(heavy)
    assert caught.value.needed_bytes > caught.value.free_bytes
    with pytest.raises(FleetError, match=r"b refuses flowers: part-0 .* bytes of memory, and .* of 60,000,000"):
        with_plan(heavy, "b", name="flowers")
    assert fleet.ready() == before
    assert fleet.revisions() == {old.sha256}
    assert fleet.infos()["b"].placements["flowers"] == (fleet.operator.placement("flowers").epoch, 0)


def with_plan(path, node, **more):
    bundle = Bundle.open(path)
    row = PlannedNode(
        node=node, parts=bundle.names, latency_ms=1, memory_bytes=1, free_bytes=1, macs=1, margin=0.5, latency_from={}
    )
    plan = Plan(
        bundle_sha256=bundle.sha256, replicas=1, nodes=(row,), max_latency_ms=1, accuracy=None, accuracy_if_lost={}
    )
    return deploy(path, plan=plan, **more)


def test_a_part_that_cannot_be_loaded_leaves_what_ran(fleet, tmp_path):
    old = bundle_of(tmp_path / "flowers", parts=2)
    deploy(old.path)
    before = fleet.ready()
    bad = heavy_bundle(tmp_path / "bad", None)
    with pytest.raises(FleetError, match="cannot take flowers"):
        deploy(bad, name="flowers")
    wait_for(lambda: fleet.ready() == before)
    assert fleet.revisions() == {old.sha256}
    assert deployed_here(old.sha256)
    assert not any(one.state == "failed" for info in fleet.infos().values() for one in info.held)


def test_the_old_revision_is_let_go_when_the_new_one_answers(fleet, tmp_path):
    old, new = bundle_of(tmp_path / "old"), bundle_of(tmp_path / "new", seed=1)
    deploy(old.path, name="flowers")
    seen, there = [], {old.sha256: set(), new.sha256: set()}
    names = fleet.operator.names

    def change(key, up):
        revision, *rest = names.steps(key)[1:]
        if revision in there:
            (there[revision].add if up else there[revision].discard)(tuple(rest))
            seen.append((len(there[old.sha256]), len(there[new.sha256])))

    watcher = fleet.operator.bus.watch(names.ready(), change)
    try:
        wait_for(lambda: (3, 0) in seen)
        deploy(new.path, name="flowers")
        wait_for(lambda: fleet.revisions() == {new.sha256})
    finally:
        watcher.close()
    assert all(3 in both for both in seen[seen.index((3, 0)) :]), seen
    assert (deployed_here(old.sha256), deployed_here(new.sha256)) == (False, True)


def test_an_operator_whose_key_is_not_known_changes_nothing(fleet, tmp_path, monkeypatch):
    bundle, other = bundle_of(tmp_path / "flowers"), bundle_of(tmp_path / "other", seed=5)
    deploy(bundle.path)
    before = fleet.ready()
    stranger = tmp_path / "stranger"
    (stranger / "fleet").mkdir(parents=True)
    (stranger / "fleet" / "here").symlink_to(fleet.running.home / "fleet" / "here")
    with monkeypatch.context() as patch:
        patch.setenv("EDGEVIT_HOME", str(stranger))
        with pytest.raises(FleetError, match="not trusted here"):
            deploy(other.path, name="flowers")
        with pytest.raises(FleetError, match="no order for flowers is signed by an operator who is trusted here"):
            undeploy("flowers")
        with pytest.raises(FleetError, match="not signed by an operator"):
            drain("a", undo=True)
    assert fleet.ready() == before
    assert fleet.revisions() == {bundle.sha256}


def test_of_two_who_deploy_under_one_name_at_once_whoever_succeeds_is_served(fleet, tmp_path):
    """Each round both begin at the same moment; who fails says that somebody else goes on, and takes nothing back."""
    bundles = [bundle_of(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    for _ in range(4):
        ended, gate = {}, threading.Barrier(2)

        def run(bundle, ended=ended, gate=gate):
            gate.wait()
            try:
                ended[bundle.sha256] = deploy(bundle.path, name="contested")
            except FleetError as exc:
                ended[bundle.sha256] = exc

        running = [threading.Thread(target=run, args=(bundle,)) for bundle in bundles]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        done = {revision: one for revision, one in ended.items() if isinstance(one, Deployed)}
        lost = [str(one) for one in ended.values() if isinstance(one, FleetError)]
        assert done, lost
        wait_for(lambda: len(fleet.revisions()) == 1)
        newest = fleet.operator.known_placement("contested")
        assert newest.revision in done
        assert done[newest.revision].generation[0] == newest.epoch
        assert all("at the same time" in sentence or "is known here" in sentence for sentence in lost)
        undeploy("contested")
        wait_for(lambda: fleet.revisions() == set())


def test_of_two_orders_of_one_generation_the_first_counts_and_older_ones_are_refused(fleet, tmp_path):
    done = deploy(bundle_of(tmp_path / "flowers", parts=1).path)
    operator = fleet.operator
    known = operator.known_placement("flowers")
    rival = operator.again(known, [], epoch=known.epoch, replicas=2)
    assert "another order of that generation" in operator.give("apply", rival, ["a"], quiet)["a"]
    older = operator.again(known, [], epoch=known.epoch - 1, step=99)
    assert f"generation {known.epoch}.0 is known here" in operator.give("apply", older, ["a"], quiet)["a"]
    forged = known.model_copy(update={"epoch": known.epoch + 1})
    assert "does not fit it" in operator.give("apply", forged, ["a"], quiet)["a"]
    assert operator.give("apply", known, ["a"], quiet) == {}
    assert fleet.infos()["a"].placements["flowers"] == done.generation


def quiet(node, stage, share):
    pass


def test_orders_that_are_none_are_refused_and_the_node_lives(fleet):
    bus, names = fleet.operator.bus, fleet.operator.names
    for verb in ("check", "apply", "drain"):
        for bad in (b"", b"{}", b"[" * 100_000, b"\xff\xfe", bytes(2 << 20)):
            assert gather(bus, names.order("a", verb), payload=bad, timeout_s=5).refusals, (verb, bad[:10])
    assert "a" in fleet.infos()


@pytest.mark.parametrize("stage", ["pulling", "loading"])
def test_a_node_that_is_killed_while_it_is_deployed_to_goes_on_where_it_was(fleet, tmp_path, stage):
    folder, outcome, reached = heavy_bundle(tmp_path / "flowers", 24 * MB), [], threading.Event()

    def heard(node, now, share):
        if now == stage and (stage == "loading" or share > 0.1):
            reached.set()

    def run():
        try:
            outcome.append(with_plan(folder, "a", on_progress=heard))
        except Exception as exc:
            outcome.append(exc)

    deploying = threading.Thread(target=run)
    blobs = node_home("a") / "blobs"
    deploying.start()
    try:
        assert reached.wait(20)
    finally:
        fleet.restart("a")
        kept = max(file.stat().st_size for file in blobs.iterdir())
        deploying.join(60)
    assert not deploying.is_alive()
    assert isinstance(outcome[0], Deployed), outcome
    assert kept > MB
    assert fleet.ready()["a"] == ["part-0"]


def test_a_node_reloads_what_it_held_and_what_was_damaged_comes_from_others(fleet, tmp_path):
    deploy(bundle_of(tmp_path / "flowers").path, replicas=2)
    before = fleet.ready()
    damaged = sorted((node_home("a") / "parts").rglob("model.onnx"))
    for model in damaged:
        model.write_bytes(b"damaged" + model.read_bytes()[7:])
    record = fleet.operator.placement("flowers").release
    (node_home("a") / "blobs" / record).write_bytes(b"damaged")
    fleet.restart("a")
    wait_for(lambda: fleet.ready() == before)
    assert damaged
    assert not any(model.read_bytes().startswith(b"damaged") for model in damaged)
    fleet.restart("b", number=signal.SIGTERM)
    wait_for(lambda: fleet.ready() == before)


def test_a_drained_node_holds_nothing_takes_nothing_and_its_parts_run_elsewhere(fleet, tmp_path):
    deploy(bundle_of(tmp_path / "flowers").path)
    done = drain("a")
    assert [lost for _, lost, gained in done.moved if gained in "bc"] == ["a"]
    assert sorted(map(len, fleet.ready().values())) == [0, 1, 2]
    assert fleet.infos()["a"].drained
    assert Orders(node_home("a"), "a", dict).drained  # as after a restart
    drain("b")
    with pytest.raises(PlacementImpossible, match="no node may take it"):
        drain("c")
    assert not fleet.infos()["c"].drained
    assert fleet.ready() == {"a": [], "b": [], "c": ["part-0", "part-1", "part-2"]}
    drain("a", undo=True)
    drain("b", undo=True)
    assert len(rebalance("flowers").moved) == 2
    wait_for(lambda: sorted(map(len, fleet.ready().values())) == [1, 1, 1])
    assert rebalance("flowers").moved == ()
    with pytest.raises(UnknownName):
        drain("nobody")


def test_without_a_node_every_command_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("edgevit.fleet.operating.operator.FIND_S", 0.2)
    bundle = bundle_of(tmp_path / "flowers", parts=1)
    with pytest.raises(FleetError, match="no node is found"):
        deploy(bundle.path)
    assert not deployed_here(bundle.sha256)
