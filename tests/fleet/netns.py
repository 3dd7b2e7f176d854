"""A network of several hosts in one machine, for faults that loopback cannot have: links that are cut, or slow.

Each host is a network namespace with one interface, all on one bridge of which this process has an end itself. Needs
root and a kernel that allows it; nothing is installed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

_NUMBERS = itertools.count()


class Network:
    """``hosts`` namespaces. Host i has ``address(i)``; this process has ``here``."""

    def __init__(self, hosts: int) -> None:
        self.hosts = range(hosts)
        self._id = f"ev{os.getpid() % 100_000}n{next(_NUMBERS)}"  # the kernel takes its time to delete what had a name
        self._subnet = f"198.18.{os.getpid() % 250}"  # for tests of networks (RFC 2544): nobody's
        self.here = f"{self._subnet}.1"

    def address(self, host: int) -> str:
        return f"{self._subnet}.{10 + host}"

    def command(self, host: int) -> list[str]:
        """What a command begins with to run there."""
        return ["ip", "netns", "exec", self._space(host)]

    def cut(self, host: int) -> None:
        """As if its cable were pulled. Nobody is told: bytes just stop coming."""
        ip("link", "set", self._port(host), "down")

    def heal(self, host: int) -> None:
        ip("link", "set", self._port(host), "up")

    def slow(self, host: int, mbit: float) -> None:
        """Limit what it sends and what it gets, with at most 100 ms of it under way."""
        rate = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "32kb", "latency", "100ms")
        run("tc", "qdisc", "replace", "dev", self._port(host), *rate)
        run(*self.command(host), "tc", "qdisc", "replace", "dev", "eth0", *rate)

    def begin(self) -> None:
        """The bridge and the first namespace. Forbidden where none can be made."""
        ip("link", "add", self._id, "type", "bridge")
        ip("netns", "add", self._space(0))

    def up(self) -> None:
        """All the rest, which can be made where those could."""
        ip("addr", "add", f"{self.here}/24", "dev", self._id)
        ip("link", "set", self._id, "up")
        for host in self.hosts:
            space, port = self._space(host), self._port(host)
            if host:
                ip("netns", "add", space)
            ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", port, "master", self._id, "up")
            ip("-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            for name in ("lo", "eth0"):
                ip("-n", space, "link", "set", name, "up")

    def down(self) -> None:
        for host in self.hosts:
            with contextlib.suppress(Forbidden):
                ip("netns", "del", self._space(host))
        with contextlib.suppress(Forbidden):
            ip("link", "del", self._id)

    def _space(self, host: int) -> str:
        return f"{self._id}-{host}"

    def _port(self, host: int) -> str:
        return f"{self._id}p{host}"


class Forbidden(Exception):
    """This kernel, or this user, may not."""


@contextlib.contextmanager
def network(hosts: int) -> Iterator[Network]:
    """A network until the block ends; the test is skipped where none can be made."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    net = Network(hosts)
    try:
        try:
            net.begin()
        except Forbidden as exc:
            pytest.skip(f"this kernel makes no network namespaces: {exc}")
        net.up()
        yield net
    finally:
        net.down()


def ip(*arguments: str) -> None:
    run("ip", *arguments)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Forbidden(f"{' '.join(command)}: {done.stderr.strip()}")
