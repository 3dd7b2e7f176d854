"""Real processes of a fleet on this machine, for tests and benchmarks: started, killed, started again, reaped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from waiting import wait_for

from edgevit.errors import FleetError
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus


class Processes:
    """Processes by name, whose ``EDGEVIT_HOME`` is ``home``. What one says is kept in NAME.log there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, name: str, command: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start it; what runs under that name is killed first."""
        if name in self.running:
            self.kill(name)
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env={**os.environ, "EDGEVIT_HOME": str(self.home)}, stdin=stdin, stdout=log, stderr=log
            )
        return self.running[name]

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        for name in names:
            process = self.running.pop(name)
            process.send_signal(number)
            process.wait(20)

    def signal(self, name: str, number: int) -> None:
        self.running[name].send_signal(number)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait(20)
            if process.stdin:
                process.stdin.close()


class Nodes(Processes):
    """Nodes of this machine, which find each other."""

    def start(self, *names: str, memory_bytes: int = 200_000_000) -> None:
        for name in names:
            self.run(name, edgevit("node", "--name", name, "--memory", memory_bytes, "--threads", 1))


def edgevit(*arguments: object) -> list[str]:
    """The command that a user types as ``edgevit …``."""
    return [sys.executable, "-P", "-m", "edgevit.cli", *map(str, arguments)]


@contextmanager
def nodes(home: Path, *names: str) -> Iterator[Nodes]:
    """Nodes whose ``EDGEVIT_HOME`` is ``home``, those of ``names`` started already; all dead afterwards."""
    home.mkdir(parents=True, exist_ok=True)
    with Nodes(home) as running:
        running.start(*names)
        yield running


def wait_live(link: Link, *names: str) -> None:
    """Until those nodes are announced to who reaches the fleet over ``link``, and the router it may need is there."""
    live, buses, keys = set[str](), list[Bus](), Names(link.cluster)

    def opened() -> bool:
        with suppress(FleetError):
            buses.append(open_bus(link, "operator"))
        return bool(buses)

    wait_for(opened)
    try:
        watching = buses[0].watch(keys.live(), lambda key, here: live.add(keys.steps(key)[1]) if here else None)
        wait_for(lambda: live >= set(names), 30)
        watching.close()
    finally:
        buses[0].close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
