"""Who is alive and what each runs, over a real bus: small nodes of this process, and real node processes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet.fleet_nodes import nodes, wait_live
from fleet.tiny_fleet import make_bundle
from waiting import wait_for

from edgevit.errors import FleetError, UnknownName
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import Beat, Info, PartFigures
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Closer, Question
from edgevit.fleet.operating import watch as watch_module
from edgevit.fleet.operating.deploy import deploy
from edgevit.fleet.operating.node_logs import logs
from edgevit.fleet.operating.rows import COLUMNS, MACHINE_COLUMNS, NodeRow, Status
from edgevit.fleet.operating.status import status, top
from edgevit.fleet.operating.watch import Watch

NAMES = Names()
REVISION = "a" * 64
DAY = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A watcher's bus, alone on its machine so far."""
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    bus = open_bus(Link(), "operator")
    yield bus
    bus.close()


class Small:
    """What a watcher sees of a node, under the test's control."""

    def __init__(self, name: str, incarnation: str = "one") -> None:
        self.name, self.incarnation = name, incarnation
        self.bus = open_bus(Link(), "node", name)
        self.asked: Closer = self.bus.serve(NAMES.info(name), self._tell)
        self.live: Closer = self.bus.announce(NAMES.live(name, incarnation))

    def _tell(self, question: Question) -> None:
        question.answer(self.info().encode())
        question.finish()

    def info(self) -> Info:
        return Info(
            node=self.name, incarnation=self.incarnation, edgevit="1", arch="x", system="Linux", python="3.11", cores=4,
            runtimes=("onnxruntime",), memory_bytes=1000, free_bytes=500, labels={"room": "hall"}, started=DAY,
        )  # fmt: skip

    def beat(self, node: str | None = None, free_bytes: int = 400, **fields: object) -> None:
        made = Beat(
            node=node or self.name, incarnation=self.incarnation, seq=1, rss_bytes=7, memory_bytes=1000,
            free_bytes=free_bytes, **fields,
        )  # type: ignore[arg-type]  # fmt: skip
        self.bus.publish(NAMES.beat(self.name), made.encode())

    def ready(self, part: str) -> Closer:
        return self.bus.announce(NAMES.ready(REVISION, part, self.name, self.incarnation))

    def close(self) -> None:
        self.bus.close()


@pytest.fixture
def small(here: Bus) -> Iterator[Callable[..., Small]]:
    made: list[Small] = []

    def start(name: str, incarnation: str = "one") -> Small:
        made.append(Small(name, incarnation))
        return made[-1]

    yield start
    for node in made:
        node.close()


def row(watch: Watch, name: str) -> NodeRow:
    (found,) = [one for one in watch.status().nodes if one.node == name]
    return found


def test_a_watcher_knows_what_a_node_announces_answers_and_publishes(here: Bus, small: Callable[..., Small]) -> None:
    node = small("pi-1")
    held = [node.ready("part-10"), node.ready("part-2")]
    watch = Watch(here, NAMES)
    watch.ask_info()
    watch.settle(5)
    part = PartFigures(revision=REVISION, part="part-2", answered=3, busy=1, queue_p50_ms=1.0, compute_p50_ms=2.5)

    def known() -> bool:
        node.beat(parts=(part,), load=0.5)
        return bool(watch.status().nodes and row(watch, "pi-1").beat and row(watch, "pi-1").info
                    and len(row(watch, "pi-1").parts) == 2)  # fmt: skip

    wait_for(known)
    found = row(watch, "pi-1")
    assert (found.state, found.alive, found.parts, found.p50_ms) == ("up", True, ("part-2", "part-10"), 3.5)
    assert (found.total("answered"), found.total("busy"), found.free_bytes) == (3, 1, 400)
    record = json.loads(json.dumps(found.record()))
    assert {"node", "alive", "parts", "memory_bytes", "p50_ms"} <= set(record)
    assert record["machine"]["cores"] == 4
    assert len(found.cells()) == len(COLUMNS)
    assert found.machine_cells()[-1] == "room=hall"
    assert len(found.machine_cells()) == len(MACHINE_COLUMNS)
    held[0].close()
    wait_for(lambda: row(watch, "pi-1").parts == ("part-2",))
    watch.close()


def test_the_newest_beat_of_a_node_is_what_is_shown(here: Bus, small: Callable[..., Small]) -> None:
    node = small("pi-1")
    watch = Watch(here, NAMES)
    wait_for(lambda: watch.status().nodes)
    for free_bytes, answered in ((400, 1), (300, 2), (200, 3)):
        part = PartFigures(revision=REVISION, part="part-0", answered=answered, busy=0)

        def shown(free_bytes: int = free_bytes, part: PartFigures = part) -> bool:
            node.beat(free_bytes=free_bytes, parts=(part,), drained=part.answered == 3)
            return row(watch, "pi-1").free_bytes == free_bytes

        wait_for(shown)
        assert row(watch, "pi-1").total("answered") == answered
    assert row(watch, "pi-1").state == "drained"
    watch.close()


def test_what_happens_is_told_in_words(here: Bus, small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "SILENT_S", 0.5)
    watch = Watch(here, NAMES)
    watch.ask_info()
    events: list[tuple[str, str]] = []
    watch.on_event = lambda kind, sentence: events.append((kind, sentence))
    node = small("pi-1")
    wait_for(lambda: ("joined", "pi-1 is there") in events)
    ready = node.ready("part-0")
    wait_for(lambda: ("ready", "part-0 is ready on pi-1") in events)

    def silent() -> bool:
        watch.silences()
        return ("silent", "pi-1 says nothing") in events

    wait_for(silent)
    assert row(watch, "pi-1").state == "silent"

    def back() -> bool:
        node.beat()
        watch.silences()
        return ("back", "pi-1 speaks again") in events

    wait_for(back)
    ready.close()
    node.live.close()
    wait_for(lambda: ("gone", "pi-1 is gone") in events)
    assert row(watch, "pi-1").state == "gone"
    watch.close()


def test_a_node_that_is_started_again_is_the_same_node(here: Bus, small: Callable[..., Small]) -> None:
    watch = Watch(here, NAMES)
    watch.ask_info()
    first = small("pi-1", "one")
    wait_for(lambda: watch.status().nodes)
    second = small("pi-1", "two")
    wait_for(lambda: row(watch, "pi-1").info and row(watch, "pi-1").info.incarnation == "two")  # type: ignore[union-attr]
    first.live.close()
    time.sleep(0.3)
    assert row(watch, "pi-1").alive
    second.live.close()
    wait_for(lambda: not row(watch, "pi-1").alive)
    watch.close()


def test_beats_that_are_none_are_counted_and_those_of_another_name_ignored(
    here: Bus, small: Callable[..., Small]
) -> None:
    watch = Watch(here, NAMES)
    watch.ask_info()
    node = small("pi-1")
    small("pi-2")
    wait_for(lambda: len(watch.status().nodes) == 2)

    def rejected() -> bool:
        node.bus.publish(NAMES.beat("pi-1"), b"{}")
        node.beat(node="pi-2")
        return watch.rejected > 0

    wait_for(rejected)
    assert row(watch, "pi-2").beat is None
    watch.close()


def test_a_watcher_keeps_no_more_nodes_than_its_bound(
    here: Bus, small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MAX_NODES", 3)
    watch = Watch(here, NAMES)
    watch.ask_info()
    node = small("pi-0")
    kept = [node.bus.announce(NAMES.live(f"pi-{index}", "one")) for index in range(1, 9)]
    wait_for(lambda: len(watch.status().nodes) == 3)
    time.sleep(0.3)
    assert len(watch.status().nodes) == 3
    assert len(kept) == 8
    watch.close()


def test_without_a_node_status_is_a_fleet_error(here: Bus) -> None:
    with pytest.raises(FleetError, match="no node was found"):
        status(Link(), wait_s=0.3)


def test_a_fleet_is_told_in_sentences() -> None:
    fleet = Status((NodeRow("pi-1", "up"), NodeRow("pi-2", "gone"), NodeRow("pi-3", "silent")))
    assert list(fleet.lines()) == ["2 nodes up, 1 gone"]
    assert [record["alive"] for record in fleet.record()] == [True, False, True]


def test_real_nodes_their_deployment_and_logs_are_found_and_a_dead_one_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    bundle = make_bundle(tmp_path / "digits", parts=2)
    with nodes(tmp_path / "home", "pi-0", "pi-1") as running:
        wait_live(Link(), "pi-0", "pi-1")
        deploy(bundle, Link(), replace_after_s=3600)
        found = status(Link())
        assert [one.state for one in found.nodes] == ["up", "up"]
        assert sorted(part for one in found.nodes for part in one.parts) == ["part-0", "part-1"]
        assert "digits: 2/2 sub-models, all there" in list(found.lines())
        assert all(one.beat and one.info and one.memory_bytes == 200_000_000 for one in found.nodes)
        said = logs(Link(), ["pi-1"], lines=50)
        assert {entry["node"] for entry in said.record()} == {"pi-1"}
        assert any("ready" in line for line in said.lines())
        assert {entry["node"] for entry in logs(Link()).record()} == {"pi-0", "pi-1"}
        with pytest.raises(UnknownName):
            logs(Link(), ["pi-9"])
        running.kill("pi-1")
        wait_for(lambda: not next(one for one in status(Link()).nodes if one.node == "pi-1").alive)
        lost = status(Link())
        assert any(line.startswith("digits: 1/2 sub-models, lacks part-") for line in lost.lines())
        assert [one.state for one in lost.nodes] == ["up", "gone"]
        for again in itertools.islice(top(Link(), every_s=0.05), 3):
            assert [one.node for one in again.nodes] == ["pi-0", "pi-1"]
