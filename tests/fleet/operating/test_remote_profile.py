"""Artifacts measured on nodes over a real bus: the result comes back, and what may not be ordered is not done."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brief import BRIEF
from fleet.fleet_nodes import nodes
from fleet.tiny_fleet import make_bundle
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner
from waiting import wait_for

from edgevit import signing
from edgevit.artifact.opened import Artifact
from edgevit.build import export
from edgevit.bundle.opened import Bundle
from edgevit.cli import app
from edgevit.data.source import open_data
from edgevit.errors import FleetError, UnknownName, UsageError
from edgevit.fleet.agent import profiling
from edgevit.fleet.agent.profiling import JobState, ProfileOrder, Profiling, serve_profiles
from edgevit.fleet.agent.release import Packed, pack
from edgevit.fleet.agent.shipping import Supplier
from edgevit.fleet.agent.store import Store
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import BadMessage, Info, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Question, gather
from edgevit.fleet.operating import remote_profile
from edgevit.fleet.operating.remote_profile import profile_on
from edgevit.fleet.trust.signatures import trusted_keys
from edgevit.profiles import crops, latency
from edgevit.profiles.report.collect import collect
from edgevit.profiles.scenarios import parse_scenario
from edgevit.profiles.stored import read

NAMES = Names()


class Node:
    """The part of a node that profiles, on a bus of its own."""

    def __init__(self, name: str, root: Path, trusted: Callable[[], Mapping[str, str]]) -> None:
        self.name, self.bus = name, open_bus(Link(), "node", name)
        self.store = Store(root / name / "blobs")
        self.supplier = Supplier(self.bus, NAMES, name, self.store.path)
        self.profiling: Profiling = serve_profiles(self.bus, NAMES, name, store=self.store, trusted=trusted)
        self.told = self.bus.serve(NAMES.info(name), self.tell)
        self.live = self.bus.announce(NAMES.live(name, "one"))

    def tell(self, question: Question) -> None:
        question.answer(info(self.name).encode())
        question.finish()

    def close(self) -> None:
        self.live.close()
        self.told.close()
        self.profiling.close()
        self.supplier.close()
        self.bus.close()


def info(node: str) -> Info:
    return Info(
        node=node, incarnation="one", edgevit="0", arch="x", system="x", python="3", cores=1, runtimes=(),
        memory_bytes=1, free_bytes=1, started="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


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
    heard: list[tuple[str, Path, str, float | None]] = []
    found = profile_on(["pi-2", "pi-1"], [artifact], threads=1, on_progress=lambda *said: heard.append(said))
    assert [one.node for one in found] == ["pi-2", "pi-1"]
    for one in found:
        assert one.error is None
        assert one.saved is not None
        assert one.profile
        assert one.saved.parent == artifact / "profiles"
        assert one.saved.name.endswith(f"-onnxruntime-quick-{one.node}.json")
        assert one.measured.artifact == str(artifact)  # not where the node had it
        stored = read(one.saved).stored
        assert stored.threads == 1
        assert stored.environment["cpu"]
    assert {(said[0], said[1]) for said in heard} == {("pi-1", artifact), ("pi-2", artifact)}
    for node in nodes:  # nothing of it is left but the blobs
        assert [path.name for path in (tmp_path / "nodes" / node.profiling._node).iterdir()] == ["blobs"]
    (row,) = collect([artifact]).rows  # equal machines: the newer one stands for both
    assert row.stored


def test_a_bundle_stands_for_its_sub_models_and_a_fleet_file_can_use_the_results(
    start: Callable[..., Node], tmp_path: Path
) -> None:
    start()
    bundle = make_bundle(tmp_path / "bundle", parts=1)
    found = profile_on(["pi-1"], [bundle], out=tmp_path / "measured", threads=1)
    assert [Path(one.subject).name for one in found] == ["part-0"]
    assert not (bundle / "part-0" / "profiles").exists()
    from edgevit.bundle.fleet_file import read_fleet

    file = tmp_path / "fleet.toml"
    file.write_text('[[node]]\nname = "pi-1"\nmemory = "1GB"\nprofile = "measured/pi-1"\n')
    parts = read_fleet(file).parts(Bundle.open(bundle).placement_parts())
    assert all(part.latency_ms and part.latency_ms["pi-1"] > 0 for part in parts)


def test_an_error_on_the_node_is_a_result_with_its_kind_sentence_and_next_step(
    start: Callable[..., Node], artifact: Path
) -> None:
    start()
    for options, said in (
        ({"tier": "endless"}, "pi-1: unknown tier 'endless'"),
        ({"batch": 3}, f"pi-1: {artifact} takes a batch of 1, not 3"),
    ):
        (one,) = profile_on(["pi-1"], [artifact], **options)  # type: ignore[arg-type]
        assert isinstance(one.error, UsageError)
        assert str(one.error) == said
        assert one.error.hint


def test_a_scenario_runs_there_with_its_parameters(start: Callable[..., Node], artifact: Path) -> None:
    start()
    scenario = parse_scenario(qps=200, bound_ms=1000)
    (one,) = profile_on(["pi-1"], [artifact], scenario=scenario, threads=1, options={"graph_optimization": "basic"})
    assert one.profile, one.error
    assert one.measured.scenario == "server 200 qps ≤ 1000 ms"
    assert one.measured.key_fields["options"] == "graph_optimization=basic"
    assert any(
        "the bound of 1000 ms" in reason or "1000 ms cannot be said" in reason for reason in one.measured.reasons
    )


def test_the_images_of_a_data_set_go_along_and_give_the_accuracy_that_is_measured_here(
    start: Callable[..., Node], artifact: Path, tmp_path: Path
) -> None:
    start()
    data = f"folder:{pictures(tmp_path / 'pictures')}"
    (there,) = profile_on(["pi-1"], [artifact], data=data, threads=1)
    assert there.profile, there.error
    here = latency.profile(artifact, data=data, threads=1).kept
    assert there.measured.accuracy == here.accuracy
    assert there.measured.accuracy.images == 12
    assert there.measured.inputs == data
    assert "crops:" not in there.measured.model_dump_json()


def test_what_data_says_of_every_pixel_goes_along_too(start: Callable[..., Node], tmp_path: Path) -> None:
    start()
    made = export("segmenter_nano", "onnx", out=tmp_path / "segmenter", image_size=32, threads=1)
    (there,) = profile_on(["pi-1"], [made.path], data="scenes:32", threads=1)
    assert there.profile, there.error
    here = latency.profile(made.path, data="scenes:32", threads=1).kept
    assert here.quality is not None
    assert (here.quality.metric, here.quality.images) == ("mIoU", 500)
    assert there.measured.quality == here.quality


def test_images_without_labels_are_only_inputs_and_the_result_says_so(
    start: Callable[..., Node], artifact: Path, tmp_path: Path
) -> None:
    start()
    loose = tmp_path / "loose"
    loose.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(loose / "one.png")
    (one,) = profile_on(["pi-1"], [artifact], data=f"folder:{loose}", threads=1)
    assert one.profile, one.error
    assert one.measured.accuracy is None
    assert f"quality was not measured: folder:{loose} has no labels" in one.measured.reasons


def test_of_more_images_than_are_sent_some_of_every_class_go(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Artifact.open(artifact)
    source = f"folder:{pictures(tmp_path / 'pictures')}"
    side = opened.manifest.preprocess.size[0]  # type: ignore[union-attr]
    monkeypatch.setattr(crops, "MAX_BYTES", 4 * side * side * 3)
    crops.write(opened, source, tmp_path / "crops.npz")
    found = open_data(f"crops:{tmp_path / 'crops.npz'}")
    assert found.cropped
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3]
    monkeypatch.setattr(crops, "MAX_BYTES", side)
    with pytest.raises(UsageError, match="too large to be sent"):
        crops.write(opened, source, tmp_path / "crops.npz")


def pictures(folder: Path) -> Path:
    """Three pictures of every class of the tiny artifact, of different sizes."""
    random = np.random.default_rng(3)
    for name in ("ant", "bee", "cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_the_command_judges_what_a_node_process_measured_like_what_is_measured_here(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, brief = tmp_path / "home", str(Path(__file__).parents[2] / "brief.py")
    monkeypatch.setenv("EDGEVIT_HOME", str(home))
    command = ["profile", str(artifact), "--on", "pi-1", "--threads", "1", "--json"]
    with nodes(home) as running:
        running.run("pi-1", [sys.executable, brief, "node", "--name", "pi-1", "--memory", "100MB"])
        wait_for(lambda: '"up"' in running.log("pi-1"), 60)
        good = CliRunner().invoke(app, [*command, "--fail-if", "p50>1000s", "--require", "cpu>=10%"])
        assert good.exit_code == 0, good.output
        (record,) = json.loads(good.stdout)
        assert record["node"] == "pi-1"
        assert record["environment"]["cpu"]
        assert Path(record["saved"]).parent == artifact / "profiles"
        assert json.loads(Path(record["saved"]).read_bytes())["layers"]
        gated = CliRunner().invoke(app, [*command, "--fail-if", "p50>1us"])
        assert gated.exit_code == 10
        assert "p50 is" in gated.stderr
        assert json.loads(gated.stdout)
        out = tmp_path / "measured"
        moved = CliRunner().invoke(app, [*command, "--out", str(out), "--fps", "100"])
        assert moved.exit_code == 0, moved.output
        assert json.loads(moved.stdout)[0]["scenario"] == "paced 100 fps"
        assert [path.parent.name for path in out.rglob("*.json")] == ["pi-1"]
        unknown = CliRunner().invoke(app, [*command, "--tier", "endless"])
        assert unknown.exit_code == 2
        running.kill("pi-1", number=signal.SIGTERM)


def test_code_that_nobody_signed_is_opened_only_when_the_operator_says_so(
    start: Callable[..., Node], artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    opened: list[bool] = []
    profiled = latency.profile

    def noting(*about: Any, **options: Any) -> latency.Profile:
        opened.append(options["trust"])
        return profiled(*about, **options)

    monkeypatch.setattr(latency, "profile", noting)
    assert profile_on(["pi-1"], [artifact], threads=1)[0].profile
    assert profile_on(["pi-1"], [artifact], threads=1, trust=True)[0].profile
    assert opened == [False, True]


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
    assert "not signed by an operator who is trusted here" in str(found[0].error)


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
    monkeypatch.setattr(profiling, "SILENT_S", 1.0)
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
    monkeypatch.setattr(profiling, "PATIENCE_S", 1.0)
    monkeypatch.setattr(remote_profile, "pack", lambda path: spoilt(pack(path), artifact))
    found = profile_on(["pi-1"], [artifact])
    assert "the bytes from there are not its" in str(found[0].error)  # nobody gives the right bytes
    assert not (artifact / "profiles").exists()


def spoilt(packed: Packed, artifact: Path) -> Packed:
    model = artifact / "model.onnx"
    model.write_bytes(b"x" * model.stat().st_size)
    return packed


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_an_order(data: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(ProfileOrder, data)
