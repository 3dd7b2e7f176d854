"""Real node processes on this machine, for tests: started, killed, started again, reaped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CODE = """
import sys
from edgevit.fleet.node import NodeOptions, run_node
run_node(NodeOptions(name=sys.argv[1], memory_bytes=int(sys.argv[2]), threads=1))
"""


class Nodes:
    """Node processes by name."""

    def __init__(self, home: Path) -> None:
        self._env = {**os.environ, "EDGEVIT_HOME": str(home)}
        self._home = home
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str, memory_bytes: int = 200_000_000) -> None:
        for name in names:
            with (self._home / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    [sys.executable, "-c", _CODE, name, str(memory_bytes)], env=self._env, stderr=log
                )

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        for name in names:
            process = self._running.pop(name)
            process.send_signal(number)
            process.wait(20)

    def signal(self, name: str, number: int) -> None:
        self._running[name].send_signal(number)

    def log(self, name: str) -> str:
        return (self._home / f"{name}.log").read_text()

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait(20)


@contextmanager
def nodes(home: Path, *names: str) -> Iterator[Nodes]:
    """Nodes whose ``EDGEVIT_HOME`` is ``home``, those of ``names`` started already; all dead afterwards."""
    home.mkdir(parents=True, exist_ok=True)
    running = Nodes(home)
    try:
        running.start(*names)
        yield running
    finally:
        running.close()


def wait_for(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            raise TimeoutError("it did not become so")
        time.sleep(0.02)
