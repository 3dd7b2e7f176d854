"""``edgevit fleet up``: nodes on this machine as processes of their own, with a bundle on them, for a first try."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevit import render, worker
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.agent.node import available_memory
from edgevit.fleet.agent.release import pack
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.operating.deploy import deploy
from edgevit.home import fleet_home

START_S = 20.0  # for a node to announce itself
END_S = 5.0  # for a node to answer what waits and leave
LOOK_S = 0.25


def fleet_up(path: Path | str, nodes: int = 4, *, replicas: int = 1, tell: render.Tell = render.tell) -> None:
    """Start nodes called node-1, node-2, … on this machine, deploy ``path`` on them, and stay until Ctrl-C.

    ``tell`` is told when it is ready, and what to type next. A node process that ends is told too, and not started
    again: the others answer, degraded, until ``edgevit node`` is started under that name. Half of the memory that is
    free now is shared out among them, as much as a node that is alone on its machine gives.

    FleetError when a node does not start, and what ``deploy`` raises.
    """
    if replicas > nodes:
        raise UsageError(f"{replicas} replicas need as many nodes, and there are {nodes}", hint="more --nodes")
    pack(path)  # what is wrong with it is said before anything is started
    share = max(1, available_memory() // 2 // nodes)
    with _told_to_end(), _nodes([f"node-{i}" for i in range(1, nodes + 1)], share) as running:
        _wait_live(running)
        deployed = deploy(path, replicas=replicas)
        tell("deployed", deployed.summary(), deployment=deployed.record())
        sentence = (
            f"ready: {nodes} nodes. In another terminal: edgevit infer {path} IMAGE, edgevit fleet status,"
            f" edgevit serve {path}; Ctrl-C here ends the nodes"
        )
        tell("ready", sentence, nodes=list(running))
        with suppress(KeyboardInterrupt):
            _watch(dict(running), tell)


def _watch(running: dict[str, subprocess.Popen[bytes]], tell: render.Tell) -> None:
    """Until no node is left."""
    while running:
        for name, process in tuple(running.items()):
            if process.poll() is not None:
                del running[name]
                sentence = f"{name} has ended ({_how(process.returncode)}); edgevit node --name {name} starts it again"
                tell("node ended", sentence, node=name, code=process.returncode)
        time.sleep(LOOK_S)


def _how(code: int) -> str:
    return f"exit {code}" if code >= 0 else f"signal {-code}"


@contextmanager
def _nodes(names: Sequence[str], memory_bytes: int) -> Iterator[Mapping[str, subprocess.Popen[bytes]]]:
    """Node processes by name, each with so much memory to give, all ended with SIGTERM in the end."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            running[name] = _started(name, memory_bytes)
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(name: str, memory_bytes: int) -> subprocess.Popen[bytes]:
    """A node that writes its log lines to a file of its own."""
    command = worker.program("edgevit.cli", "node", "--name", name, "--memory", str(memory_bytes))
    with _log(name).open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this process, which then ends its nodes in order
        )


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM ends the nodes as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _log(name: str) -> Path:
    folder = fleet_home() / "up"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


def _wait_live(running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Until all are announced; FleetError for one that ends before."""
    bus, names, live = open_bus(Link(), "client"), Names(), set[str]()
    try:
        watch = bus.watch(names.live(), lambda key, here: live.add(names.steps(key)[1]) if here else None)
        until = time.monotonic() + START_S
        while not live >= running.keys():
            for name, process in running.items():
                if process.poll() is not None:
                    said = _log(name).read_text("utf-8", "replace").strip().splitlines()
                    raise FleetError(f"{name} ended at once: {said[-1] if said else _how(process.returncode)}")
            if time.monotonic() > until:
                missing = ", ".join(sorted(running.keys() - live))
                raise FleetError(f"{missing} did not start within {START_S:.0f} s", hint=f"see {fleet_home() / 'up'}")
            time.sleep(0.02)
        watch.close()
    finally:
        bus.close()
