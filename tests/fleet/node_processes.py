"""Real node processes on this machine, and a bundle deployed on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CODE = (
    "import sys; from edgevit.fleet.node import NodeOptions, run_node; "
    "run_node(NodeOptions(name=sys.argv[1], memory_bytes=100_000_000, threads=1, labels={'room': sys.argv[1]}))"
)


class Nodes:
    """Node processes by name, with the ``EDGEVIT_HOME`` of this process."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with (self.log / f"{name}.log").open("ab") as said:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-c", CODE, name], stderr=said, stdout=said, env=dict(os.environ)
            )

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        process = self._running.pop(name)
        process.send_signal(sig)
        process.wait(20)

    def signal(self, name: str, sig: signal.Signals) -> None:
        self._running[name].send_signal(sig)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait(20)


@contextmanager
def nodes(log: Path, names: Sequence[str]) -> Iterator[Nodes]:
    """Running nodes, all dead afterwards."""
    running = Nodes(log)
    try:
        for name in names:
            running.start(name)
        yield running
    finally:
        running.close()
