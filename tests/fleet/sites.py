"""Sites of a fleet with mTLS on hosts of a network: what a user starts there, ``edgevit router`` and ``edgevit node``,
which reach nobody but the routers, and clients that ask without end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fleet.fleet_nodes import Processes, edgevit, wait_live
from fleet.laptop import Frame, frames, laptop
from fleet.netns import Network
from waiting import wait_for

from edgevit.fleet.bus.link import Link, Role
from edgevit.fleet.operating.deploy import deploy
from edgevit.fleet.trust.ca import enroll, init_ca

PORT = 7447


class Sites(Processes):
    """All of them with this process's ``EDGEVIT_HOME``, which is ``home``. Hosts and routers are numbers of ``net``."""

    def __init__(self, home: Path, net: Network) -> None:
        super().__init__(home)
        self.net = net
        init_ca()

    def router(self, name: str, host: int, *connect: int) -> None:
        self._run(name, "router", host, "router", "--listen", self._at(host), *self._ends(connect))

    def node(self, name: str, host: int, *routers: int) -> None:
        """As soon as the first of its routers listens: a node that finds none at its start gives up."""
        wait_for(lambda: listens(self.net.address(routers[0])))
        self._run(name, "node", host, "node", "--router-only", "--threads", 1, *self._ends(routers))

    def laptop(self, name: str, host: int, bundle: Path, *routers: int, fps: float, deadline_s: float) -> None:
        command = laptop(bundle, self.link(name, "client", *routers), fps, deadline_s)
        self.run(name, [*self.net.command(host), *command])

    def link(self, name: str, role: Role, *routers: int) -> Link:
        return Link(mode="client", connect=tuple(map(self._at, routers)), identity=self._identity(name, role))

    def see(self, router: int, *names: str) -> None:
        """Wait until who asks that router is told of these nodes."""
        wait_live(self.link("operator", "operator", router), *names)

    def deploy(self, router: int, bundle: Path, replicas: int = 1) -> None:
        deploy(bundle, self.link("operator", "operator", router), replicas=replicas, replace_after_s=3600)

    def frames(self, name: str, since: float = 0.0) -> list[Frame]:
        """What a laptop has said of the frames that were due after ``since``."""
        return [one for one in frames(self.log(name)) if one.due >= since]

    def wait_for_frames(self, name: str, good: Callable[[Frame], bool], count: int = 10) -> float:
        """Until the newest ``count`` frames of a laptop, all due after this call, are good; when the first was due."""
        since = time.monotonic()
        wait_for(lambda: len(new := self.frames(name, since)) >= count and all(map(good, new[-count:])), 30)
        return [one for one in self.frames(name, since) if good(one)][-count].due

    def _at(self, host: int) -> str:
        return f"tls/{self.net.address(host)}:{PORT}"

    def _ends(self, hosts: tuple[int, ...]) -> list[str]:
        return [word for host in hosts for word in ("--connect", self._at(host))]

    def _identity(self, name: str, role: Role) -> Path:
        folder = self.home / "identities" / name
        return folder if folder.exists() else enroll(name, role, out=folder).folder

    def _run(self, name: str, role: Role, host: int, *arguments: object) -> None:
        identity = ("--identity", self._identity(name, role))
        self.run(name, [*self.net.command(host), *edgevit(*arguments, *identity)])


def listens(address: str) -> bool:
    with suppress(OSError), socket.create_connection((address, PORT), timeout=1):
        return True
    return False
