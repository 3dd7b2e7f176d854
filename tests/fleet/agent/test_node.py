"""Real node processes on this machine: how they start, what they say of themselves, and how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fleet.fleet_nodes import free_port
from fleet.tiny_fleet import make_bundle
from waiting import wait_for

from edgevit import cgroups, registry
from edgevit.bundle.opened import Bundle
from edgevit.errors import MissingDependency, UsageError
from edgevit.fleet.agent.node import NodeOptions, available_memory, claimed, resident_bytes, run_node
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_RECORD, Beat, InferMeta, Info, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, gather
from edgevit.fleet.operating.deploy import deploy

NAMES = Names()
RUN = """
import sys
from edgevit.errors import EdgeVitError
from edgevit.fleet.bus.link import Link
from edgevit.fleet.agent import node
from edgevit.fleet.agent.node import NodeOptions, run_node
{before}
try:
    run_node(NodeOptions({options}))
except EdgeVitError as error:
    print(f"error: {{error}}; {{error.hint}}", file=sys.stderr)
    sys.exit(error.exit_code)
{after}
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """A function that starts a node process with these ``NodeOptions``, in Python's words."""
    started: list[subprocess.Popen[str]] = []

    def begin(options: str = "", before: str = "", after: str = "", **env: str) -> subprocess.Popen[str]:
        code = RUN.format(options=options, before=before, after=after)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


class Seen:
    """Who is live, as a client sees it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.live: dict[str, bool] = {}
        self.ever: list[str] = []
        self._watching = bus.watch(NAMES.live(), self._change)

    def _change(self, key: str, there: bool) -> None:
        self.live[key] = there
        self.ever += [key] if there else []

    def names(self) -> list[str]:
        return sorted(NAMES.steps(key)[1] for key, there in self.live.items() if there)


@pytest.fixture
def seen(home: Path) -> Iterator[Seen]:
    bus = open_bus(Link(), "client")
    yield Seen(bus)
    bus.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it said."""
    _, said = process.communicate(timeout=20)
    return process.returncode, said


def info(bus: Bus, name: str) -> Info:
    (answer,) = gather(bus, NAMES.info(name), timeout_s=5).good
    return parse(Info, answer.payload, MAX_RECORD)


def lines(said: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in said.splitlines()]


# --- being there ------------------------------------------------------------------------------------------------------


def test_a_node_can_be_asked_as_soon_as_it_is_seen(start, seen) -> None:
    start('name="alpha", memory_bytes=1 << 20, labels={"room": "kitchen"}, threads=1')
    wait_for(lambda: seen.names() == ["alpha"])
    found = info(seen.bus, "alpha")
    (key,) = seen.ever
    assert NAMES.steps(key) == ("live", "alpha", found.incarnation)
    assert (found.node, found.memory_bytes, found.free_bytes) == ("alpha", 1 << 20, 1 << 20)
    assert found.labels == {"room": "kitchen"}
    able = {name for name, row in registry.rows("runtime").items() if row.on_this_machine().able}
    assert "onnxruntime" in able
    assert set(found.runtimes) == able, "what is installed and cannot run here is no runtime of the node"
    assert not found.held
    assert not found.drained
    (answer,) = gather(seen.bus, NAMES.log("alpha"), timeout_s=5).good
    assert [line["event"] for line in lines(answer.payload.decode())] == ["up"]


def test_a_node_beats_and_counts_its_beats(start, seen) -> None:
    beats: list[Beat] = []
    listening = seen.bus.listen(NAMES.beat("alpha"), lambda _, data: beats.append(parse(Beat, data, MAX_RECORD)))
    start('name="alpha", threads=1')
    wait_for(lambda: len(beats) >= 3)
    listening.close()
    assert [beat.seq for beat in beats] == list(range(beats[0].seq, beats[0].seq + len(beats)))
    assert len({beat.incarnation for beat in beats}) == 1
    assert all(beat.rss_bytes > 1 << 20 and beat.free_bytes == beat.memory_bytes for beat in beats)


def test_nodes_without_a_name_are_called_like_their_host_and_told_apart(home, monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "pi #3.lan")
    with claimed(NodeOptions()) as first, claimed(NodeOptions()) as second, claimed(NodeOptions()) as third:
        assert (first, second, third) == ("pi-3", "pi-3-2", "pi-3-3")
    with claimed(NodeOptions()) as again:
        assert again == "pi-3"


def test_metrics_are_there_for_prometheus(start, seen) -> None:
    port = free_port()
    start(f'name="alpha", memory_bytes=5000, threads=1, metrics="127.0.0.1:{port}"')
    wait_for(lambda: seen.names() == ["alpha"])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    assert 'edgevit_node_memory_bytes{node="alpha"} 5000.0' in text
    assert "# TYPE edgevit_part_answers_total counter" in text


# --- ending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_is_told_to_end_withdraws_and_ends_well(start, seen, number) -> None:
    process = start('name="alpha", threads=1')
    wait_for(lambda: seen.names() == ["alpha"])
    process.send_signal(number)
    code, said = ended(process)
    assert code == 0
    assert [line["event"] for line in lines(said)] == ["up", "closed"]
    wait_for(lambda: seen.names() == [])


def test_a_node_whose_network_does_not_close_ends_nevertheless(start, seen) -> None:
    stuck = "import threading; node.Node.close = lambda _: threading.Event().wait()"
    process = start('name="alpha", threads=1', stuck)
    wait_for(lambda: seen.names() == ["alpha"])
    process.terminate()
    assert ended(process)[0] == 0


def test_a_node_that_was_killed_comes_back_under_its_name(start, seen) -> None:
    process = start('name="alpha", threads=1')
    wait_for(lambda: seen.names() == ["alpha"])
    process.kill()
    wait_for(lambda: seen.names() == [])
    start('name="alpha", threads=1')
    wait_for(lambda: seen.names() == ["alpha"])
    assert len(set(seen.ever)) == 2


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one part that takes some hundred milliseconds."""
    return make_bundle(tmp_path_factory.mktemp("slow") / "bundle", 1, work=600)


@pytest.fixture
def asked(slow) -> tuple[bytes, bytes]:
    """Payload and meta of a question to its part."""
    image = next((slow / "part-0" / "golden").glob("*.png")).read_bytes()
    return image, InferMeta(id="0" * 16, kind="image", left_ms=20_000.0).encode()


def test_what_waits_when_a_node_is_told_to_end_is_answered(start, seen, slow, asked) -> None:
    process = start('name="alpha", threads=1')
    wait_for(lambda: seen.names() == ["alpha"])
    deploy(slow, Link())
    key = NAMES.infer(Bundle.read(slow).sha256, "part-0", "alpha")
    payload, meta = asked
    beats: list[Beat] = []
    listening = seen.bus.listen(NAMES.beat("alpha"), lambda _, data: beats.append(parse(Beat, data, MAX_RECORD)))
    with ThreadPoolExecutor() as pool:
        for _ in range(50):  # until a beat, of which there are two a second, falls into an answer's making
            asking = pool.submit(gather, seen.bus, key, payload=payload, meta=meta, timeout_s=20)
            while not asking.done() and not (beats and beats[-1].parts and beats[-1].parts[0].queued):
                time.sleep(0.005)
            if not asking.done():
                break
            beats.clear()
        process.terminate()
        assert not asking.done()
        assert len(asking.result().good) == 1
    listening.close()
    assert ended(process)[0] == 0


def test_a_node_that_was_killed_serves_again_what_it_held(start, seen, slow, asked) -> None:
    process = start('name="alpha", threads=1')
    wait_for(lambda: seen.names() == ["alpha"])
    deploy(slow, Link())
    process.kill()
    wait_for(lambda: seen.names() == [])
    ready: dict[str, bool] = {}
    watching = seen.bus.watch(NAMES.ready(), ready.__setitem__)
    start('name="alpha", threads=1')
    wait_for(lambda: True in ready.values())
    watching.close()
    payload, meta = asked
    key = NAMES.infer(Bundle.read(slow).sha256, "part-0", "alpha")
    assert len(gather(seen.bus, key, payload=payload, meta=meta, timeout_s=20).good) == 1
    (held,) = info(seen.bus, "alpha").held
    assert (held.part, held.state) == ("part-0", "ready")


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_on_this_machine_is_refused(start, seen) -> None:
    start('name="alpha", threads=1')
    wait_for(lambda: seen.names() == ["alpha"])
    code, said = ended(start('name="alpha", threads=1'))
    assert (code, said) == (2, "error: a node called alpha runs on this machine already; edgevit node --name OTHER\n")
    assert seen.names() == ["alpha"]


def test_of_two_machines_nodes_of_one_name_the_younger_one_goes(start, tmp_path) -> None:
    port = free_port()
    elsewhere = Link(connect=(f"tcp/127.0.0.1:{port}",), insecure=True)
    quick = "node.NAMESAKE_S = 0.5"
    elder = start(f'name="alpha", threads=1, link=Link(listen=("tcp/127.0.0.1:{port}",), insecure=True)', quick)
    wait_for(lambda: listens(port))
    bus = open_bus(elsewhere, "client")
    seen = Seen(bus)
    wait_for(lambda: seen.names() == ["alpha"])
    options = f'name="alpha", threads=1, link=Link(connect=("tcp/127.0.0.1:{port}",), insecure=True)'
    code, said = ended(start(options, quick, EDGEVIT_HOME=str(tmp_path / "other")))
    assert code == 9
    assert "another machine's node is called alpha too, and was there first; edgevit node --name OTHER" in said
    assert "Traceback" not in said
    wait_for(lambda: len(seen.names()) == 1)
    assert elder.poll() is None
    assert info(bus, "alpha").incarnation in seen.ever[0]
    bus.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_endpoint_that_is_taken_is_one_sentence(start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = ended(start(f'name="alpha", link=Link(listen=("tcp/127.0.0.1:{port}",))'))
    assert code == 9
    (sentence,) = said.splitlines()
    assert sentence.startswith("error: ")
    assert f"tcp/127.0.0.1:{port}" in sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (NodeOptions(name="a/b"), "node 'a/b' cannot be used in a fleet"),
        (NodeOptions(name="a", link=Link(listen=("tcp/0.0.0.0:7447",))), "without encryption"),
        (NodeOptions(name="a", link=Link(listen=("nonsense",))), "'nonsense' is no endpoint"),
        (NodeOptions(name="a", metrics="9100"), "is not HOST:PORT"),
        (NodeOptions(name="a", metrics="127.0.0.1:99999"), "is not HOST:PORT"),
        (NodeOptions(name="a", metrics="203.0.113.1:9100"), "--metrics cannot listen on 203.0.113.1:9100"),
        (NodeOptions(name="a", memory_bytes=-1), "memory"),
        (NodeOptions(name="a", threads=0), "threads"),
        (NodeOptions(name="a", queue=0), "queue"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(home, options, sentence) -> None:
    with pytest.raises(UsageError, match=sentence.replace("(", ".")) as caught:
        run_node(options)
    assert caught.value.hint


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be written") as caught:
        run_node(NodeOptions(name="a"))
    assert caught.value.hint == "set EDGEVIT_HOME to another folder"


def test_without_zenoh_the_pip_line_is_told(home, monkeypatch) -> None:
    monkeypatch.setattr("edgevit.registry.version_of", lambda package: None if "zenoh" in package else "1")
    with pytest.raises(MissingDependency) as caught:
        run_node(NodeOptions(name="a"))
    assert caught.value.hint == registry.pip_line("edgevit[fleet]")


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_a_node_that_holds_nothing_has_opened_no_engine_and_no_command_line(start, seen) -> None:
    heavy = ("torch", "onnxruntime", "typer", "cryptography", "prometheus_client", "fastapi", "onnx", "PIL")
    after = f"print('loaded', [name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    process = start('name="alpha"', after=after)
    wait_for(lambda: seen.names() == ["alpha"])
    info(seen.bus, "alpha")
    process.terminate()
    assert ended(process)[1].splitlines()[-1] == "loaded []"


def test_the_verb_imports_nothing_that_only_operators_clients_or_profiles_need(home, seen, tmp_path) -> None:
    command = [sys.executable, "-X", "importtime", "-P", "-m", "edgevit.cli", "node", "--name", "alpha"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stderr=said)
    try:
        wait_for(lambda: seen.names() == ["alpha"])
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    lines = (tmp_path / "said").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert {"edgevit.fleet.agent.engine", "zenoh", "typer"} <= imported
    unneeded = ("torch", "onnxruntime", "onnx", "cryptography", "PIL", "rich", "edgevit.data",
                "edgevit.profiles", "edgevit.bundle.opened", "edgevit.bundle.fleet_file", "edgevit.fleet.asking.client",
                "edgevit.fleet.operating.deploy", "edgevit.fleet.gateway")  # fmt: skip
    found = {name for name in imported if any(f"{name}.".startswith(f"{one}.") for one in unneeded)}
    # functions of numbers and a part of the manifest, and nothing else
    assert found <= {"edgevit.profiles", "edgevit.profiles.statistics", "edgevit.data", "edgevit.data.content"}


def test_memory_is_measured_and_within_the_machines() -> None:
    assert 1 << 20 < resident_bytes() < 1 << 36
    assert 1 << 20 < available_memory() < 1 << 46


def test_a_control_groups_limit_bounds_the_memory(monkeypatch) -> None:
    monkeypatch.setattr(cgroups, "memory_left", lambda: 200_000_000)
    assert available_memory() == 200_000_000
