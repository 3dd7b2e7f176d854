"""Node processes for the fleet's benchmarks: real ones, and raw Zenoh ones that answer at once, without a fleet.

``python fleet_processes.py NAME`` is a raw one: it answers part "raw" with 1,536 bytes from within the callback.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import zenoh
from fleet.fleet_nodes import Processes, edgevit, free_port, wait_live
from fleet.sites import PORT, listens
from waiting import wait_for
from zenoh.handlers import Callback

from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.trust.ca import enroll, init_ca

if TYPE_CHECKING:
    from fleet.netns import Network

REPLY = bytes(1536)
REVISION = "e" * 64
PART = "raw"
START_S = 30.0


class Site(Processes):
    """Node processes over TCP or mTLS: on loopback, or each on a host of ``network``, the nth node on the nth. There a
    router on this host may link them all, and nothing else."""

    def __init__(self, home: Path, secured: bool, network: Network | None, routed: bool) -> None:
        super().__init__(home)
        self.secured, self.network = secured, network
        self.endpoints: dict[str, str] = {}  # of nodes that are named, in the order they were started
        if secured:
            init_ca()
        self.router = self._router(network) if routed and network else None

    def _router(self, network: Network) -> str:
        at = f"{'tls' if self.secured else 'tcp'}/{network.here}:{PORT}"
        self.run("router", edgevit("router", "--listen", at, *self._trust("router", "router")))
        wait_for(lambda: listens(network.here))
        return at

    def link(self, role: str, name: str) -> Link:
        if not self.secured and self.network is None:
            return Link()
        identity = self._identity(role, name) if self.secured else None
        if self.router:
            return Link(mode="client", connect=(self.router,), identity=identity, insecure=not self.secured)
        listen = tuple(at for node, at in self.endpoints.items() if node == name)
        connect = tuple(at for node, at in self.endpoints.items() if node != name)
        return Link(listen=listen, connect=connect, identity=identity, insecure=not self.secured)

    def _trust(self, role: str, name: str) -> list[str]:
        return ["--identity", str(self._identity(role, name))] if self.secured else ["--insecure"]

    def host(self, name: str) -> int:
        """The namespace of a node."""
        return list(self.endpoints).index(name)

    def _identity(self, role: str, name: str) -> Path:
        out = self.home / "identities" / name
        return out if out.exists() else enroll(name, role, out=out).folder

    def edgevit(self, name: str) -> None:
        """Start a node, or start it again."""
        self._start(name, edgevit("node", "--name", name, "--threads", 1))

    def raw(self, name: str) -> None:
        self._start(name, [sys.executable, __file__, name])

    def odd(self, name: str, revision: str, parts: str, behaviour: str, features: int) -> None:
        """A node of tests/fleet/odd_node.py, on loopback."""
        script = str(Path(__file__).parents[1] / "tests/fleet/odd_node.py")
        command = [sys.executable, script, name, revision, parts, behaviour, str(features)]
        self.run(name, command, stdin=subprocess.PIPE)  # it ends with its stdin

    def _start(self, name: str, command: list[str]) -> None:
        if self.secured or self.network is not None:
            protocol = "tls" if self.secured else "tcp"
            if self.network is None:
                at = self.endpoints.get(name) or f"{protocol}/127.0.0.1:{free_port()}"
            else:
                index = self.host(name) if name in self.endpoints else len(self.endpoints)
                at = f"{protocol}/{self.network.address(index)}:{PORT}"
                command = [*self.network.command(index), *command]
            self.endpoints[name] = at
            command += [*(["--router-only"] if self.router else ["--listen", at]), *self._trust("node", name)]
            command += [word for one in self.link("node", name).connect for word in ("--connect", one)]
        self.run(name, command)

    def wait_live(self, *names: str) -> None:
        wait_live(self.link("operator", "operator"), *names)


@contextmanager
def new_home() -> Iterator[Path]:
    """An empty ``EDGEVIT_HOME``, this process's too while the block runs."""
    before = os.environ.get("EDGEVIT_HOME")
    with tempfile.TemporaryDirectory(prefix="edgevit-fleet-") as folder:
        os.environ["EDGEVIT_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("EDGEVIT_HOME") if before is None else os.environ.update(EDGEVIT_HOME=before)


@contextmanager
def site(*, secured: bool = False, network: Network | None = None, routed: bool = False) -> Iterator[Site]:
    """A site without nodes; its processes are killed in the end."""
    with new_home() as home, Site(home, secured, network, routed) as found:
        yield found


class RawClient:
    """A scatter as it is without a fleet: one get a node, and wait for as many replies."""

    def __init__(self, session: Any, nodes: list[str]) -> None:
        self.session = session
        self.keys = [Names().infer(REVISION, PART, node) for node in nodes]

    def scatter(self, payload: bytes, meta: bytes, timeout_s: float = 2.0) -> int:
        """The replies that came."""
        came: SimpleQueue[bytes] = SimpleQueue()

        def replied(reply: Any) -> None:
            came.put(reply.ok.payload.to_bytes())

        for key in self.keys:
            self.session.get(
                key, Callback(replied, _nothing), target=zenoh.QueryTarget.ALL,
                consolidation=zenoh.ConsolidationMode.NONE, timeout=timeout_s, payload=payload, attachment=meta,
                congestion_control=zenoh.CongestionControl.DROP, priority=zenoh.Priority.INTERACTIVE_HIGH, express=True,
            )  # fmt: skip
        until = time.perf_counter() + timeout_s
        answered = 0
        with suppress(Empty):
            while answered < len(self.keys):
                came.get(timeout=max(0.0, until - time.perf_counter()))
                answered += 1
        return answered


def _nothing() -> None:
    return None


def raw_session(bus: Any) -> Any:
    """Zenoh's own session beneath a bus, and beneath what seals its questions: the same settings, the same links."""
    return getattr(bus, "_bus", bus)._session


def wait_parts(client: FleetClient, revision: str, parts: tuple[str, ...]) -> None:
    if len(client.wait(revision, parts, START_S)) < len(parts):
        raise SystemExit("not all parts are announced")


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--listen", action="append", default=[])
    parser.add_argument("--connect", action="append", default=[])
    parser.add_argument("--identity", type=Path)
    given = parser.parse_args()
    link = Link(listen=tuple(given.listen), connect=tuple(given.connect), identity=given.identity)
    bus = open_bus(link, "node", given.name)
    session = raw_session(bus)
    key = Names().infer(REVISION, PART, given.name)

    def asked(query: Any) -> None:
        with query:
            query.payload.to_bytes()
            query.reply(key, REPLY, attachment=b"{}", express=True)

    serving = session.declare_queryable(key, asked)
    live = bus.announce(Names().live(given.name, "raw"))
    threading.Event().wait()
    del serving, live


if __name__ == "__main__":
    main()
