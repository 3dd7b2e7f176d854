"""Artifacts measured on nodes over a real bus: the result comes back, and what may not be ordered is not done."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from brief import BRIEF
from fleet.tiny_fleet import make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgevit import signing
from edgevit.errors import FleetError, UnknownName, UsageError
from edgevit.fleet import remote_profile
from edgevit.fleet.bus import Bus, gather
from edgevit.fleet.link import Link, open_bus
from edgevit.fleet.messages import BadMessage, parse
from edgevit.fleet.names import Names
from edgevit.fleet.release import Packed, pack
from edgevit.fleet.remote_profile import JobState, ProfileOrder, Profiling, profile_on, serve_profiles
from edgevit.fleet.shipping import Supplier
from edgevit.fleet.signatures import trusted_keys
from edgevit.fleet.store import Store
from edgevit.profiles import latency
from edgevit.split.bundle import Bundle

NAMES = Names()


class Node:
    """The part of a node that profiles, on a bus of its own."""

    def __init__(self, name: str, root: Path, trusted: Callable[[], Mapping[str, str]]) -> None:
        self.bus: Bus = open_bus(Link(), "node", name)
        self.store = Store(root / name / "blobs")
        self.supplier = Supplier(self.bus, NAMES, name, self.store.path)
        self.profiling: Profiling = serve_profiles(self.bus, NAMES, name, store=self.store, trusted=trusted)
        self.live = self.bus.announce(NAMES.live(name, "one"))

    def close(self) -> None:
        self.live.close()
        self.profiling.close()
        self.supplier.close()
        self.bus.close()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(latency.TIERS, "quick", BRIEF)
    monkeypatch.setattr(remote_profile, "EVERY_S", 0.1)
    signing.own_key()
    made: list[Node] = []

    def begin(name: str = "pi-1", trusted: Callable[[], Mapping[str, str]] = trusted_keys) -> Node:
        made.append(Node(name, tmp_path / "nodes", trusted))
        return made[-1]

    yield begin
    for node in made:
        node.close()


@pytest.fixture
def artifact(make_artifact: Callable[..., Path]) -> Path:
    return make_artifact("tiny")


def test_an_artifact_is_measured_on_two_nodes_and_the_results_come_back(
    start: Callable[..., Node], artifact: Path, tmp_path: Path
) -> None:
    nodes = [start("pi-1"), start("pi-2")]
    heard: list[tuple[str, str, str, float | None]] = []
    found = profile_on(["pi-2", "pi-1"], [artifact], threads=1, on_progress=lambda *said: heard.append(said))
    assert not found.failed, found.record()
    assert [one.node for one in found.results] == ["pi-2", "pi-1"]
    for one in found.results:
        assert one.measured is not None
        assert one.measured.file.parent == artifact / "profiles"
        assert one.measured.file.name.endswith(f"-onnxruntime-quick-{one.node}.json")
        assert one.measured.stored.threads == 1
        assert one.measured.stored.environment["cpu"]
    assert {record["node"] for record in found.record()} == {"pi-1", "pi-2"}
    assert json.dumps(found.record())
    assert all(len(row) == len(remote_profile.COLUMNS) for row in found.rows())
    assert {said[0] for said in heard} == {"pi-1", "pi-2"}
    for node in nodes:  # nothing of it is left but the blobs
        assert [path.name for path in (tmp_path / "nodes" / node.profiling._node).iterdir()] == ["blobs"]


def test_a_bundle_stands_for_its_sub_models_and_a_fleet_file_can_use_the_results(
    start: Callable[..., Node], tmp_path: Path
) -> None:
    start()
    bundle = make_bundle(tmp_path / "bundle", parts=1)
    found = profile_on(["pi-1"], [bundle], out=tmp_path / "measured", threads=1)
    assert [one.artifact.name for one in found.results] == ["part-0"]
    assert not (bundle / "part-0" / "profiles").exists()
    from edgevit.split.fleet_file import read_fleet

    file = tmp_path / "fleet.toml"
    file.write_text('[[node]]\nname = "pi-1"\nmemory = "1GB"\nprofile = "measured/pi-1"\n')
    parts = read_fleet(file).parts(Bundle.open(bundle).placement_parts())
    assert all(part.latency_ms and part.latency_ms["pi-1"] > 0 for part in parts)


def test_what_fails_on_the_node_is_a_result_with_its_sentence(start: Callable[..., Node], artifact: Path) -> None:
    start()
    found = profile_on(["pi-1"], [artifact], tier="endless")
    assert found.failed
    assert "unknown tier 'endless'" in str(found.results[0].error)
    assert "failed: " in next(iter(found.rows()))[-1]


def test_a_node_that_is_not_there_and_nothing_to_do_are_errors_at_once(
    start: Callable[..., Node], artifact: Path
) -> None:
    with pytest.raises(FleetError, match="no node"):
        profile_on(["pi-1"], [artifact])
    start()
    with pytest.raises(UnknownName):
        profile_on(["pi-7"], [artifact])
    with pytest.raises(UsageError):
        profile_on(["pi-1"], [])


def test_an_operator_whose_key_is_not_trusted_is_refused(start: Callable[..., Node], artifact: Path) -> None:
    start(trusted=lambda: {"0" * 64: "someone else"})
    found = profile_on(["pi-1"], [artifact])
    assert "not signed by an operator who is trusted here" in str(found.results[0].error)


def asked(bus: Bus, order: ProfileOrder, node: str = "pi-1") -> JobState | str:
    reply = gather(bus, NAMES.order(node, "profile"), payload=order.encode(), timeout_s=5)
    return reply.refusals[0] if reply.refusals else parse(JobState, reply.good[0].payload)


def test_an_altered_order_or_one_for_another_node_is_refused(start: Callable[..., Node]) -> None:
    start()
    order = ProfileOrder.signed(node="pi-1", id=secrets.token_hex(8), release="a" * 64)
    bus = open_bus(Link(), "operator")
    try:
        assert "not signed" in str(asked(bus, order.model_copy(update={"tier": "publish"})))
        other = ProfileOrder.signed(node="pi-2", id=secrets.token_hex(8), release="a" * 64)
        assert "for pi-2" in str(asked(bus, other))
        for payload in (b"", b"{", b"x" * (2 << 20)):
            assert gather(bus, NAMES.order("pi-1", "profile"), payload=payload, timeout_s=5).refusals
    finally:
        bus.close()


def test_a_second_order_is_refused_and_the_first_one_ends_when_its_operator_is_silent(
    start: Callable[..., Node], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_profile, "SILENT_S", 1.0)
    monkeypatch.setitem(latency.TIERS, "quick", latency.Tier(latency.Plan(60, 64, 120, 0.05, 10, 0.5)))
    node, packed = start(), pack(artifact)
    bus = open_bus(Link(), "operator")
    supplier = Supplier(bus, NAMES, "operator-1", packed.find)
    try:
        first = ProfileOrder.signed(node="pi-1", id=secrets.token_hex(8), release=packed.sha256, threads=1)
        second = ProfileOrder.signed(node="pi-1", id=secrets.token_hex(8), release=packed.sha256)
        assert isinstance(asked(bus, first), JobState)
        assert asked(bus, second) == "another measurement is going on here"
        end = time.monotonic() + 30
        while node.profiling._state is None or node.profiling._state.state == "working":
            assert time.monotonic() < end
            time.sleep(0.05)
        assert node.profiling._state.stage == "nobody waits for the result any more"
    finally:
        supplier.close()
        bus.close()


def test_an_altered_file_is_not_measured(
    start: Callable[..., Node], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's own disk changes after it has hashed: the node notices."""
    start()
    monkeypatch.setattr(remote_profile, "PATIENCE_S", 1.0)
    monkeypatch.setattr(remote_profile, "pack", lambda path: spoilt(pack(path), artifact))
    found = profile_on(["pi-1"], [artifact])
    assert "byte" in str(found.results[0].error)  # nobody gives the right ones
    assert not (artifact / "profiles").exists()


def spoilt(packed: Packed, artifact: Path) -> Packed:
    model = artifact / "model.onnx"
    model.write_bytes(b"x" * model.stat().st_size)
    return packed


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_an_order(data: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(ProfileOrder, data)
