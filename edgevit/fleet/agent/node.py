"""The agent on a device: it holds parts of deployments, answers questions with them, and says how it is.

What can be asked is declared first, the live token last, and then a beat every 500 ms, because a token only proves that
the process exists (docs/explanation/fleet.md, rules 4 and 6).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import IO, TextIO

from edgevit import cgroups, registry
from edgevit.cpu import arch, checked_threads, usable_cores
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.agent.controller import Controller
from edgevit.fleet.agent.ending import until_told
from edgevit.fleet.agent.engine import Engine
from edgevit.fleet.agent.figures import host_port, serve_metrics
from edgevit.fleet.agent.holdings import Holdings
from edgevit.fleet.agent.known import known_infos
from edgevit.fleet.agent.profiling import serve_profiles
from edgevit.fleet.agent.station import Station
from edgevit.fleet.agent.store import node_home
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.logs import Heard, Log
from edgevit.fleet.bus.messages import Beat, Info
from edgevit.fleet.bus.names import Names, checked
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Closer, Question
from edgevit.fleet.trust.signatures import trusted_keys

BEAT_S = 0.5
NAMESAKE_S = 6.0  # how long another node of our name may be the shadow of an earlier run: the longest lease, and a bit
LOOK_S = 30.0  # between two questions whether such a node is really there
END_S = 0.9  # after SIGTERM the process is gone, whatever hangs
_SAME_NAME = 100  # nodes of one name on a machine


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node is started.

    name          default: the identity's, else the host's; a second one on this machine becomes NAME-2
    memory_bytes  that it gives to sub-models; default: half of what is free now
    threads       of one inference; default: the usable cores
    queue         questions that wait at most
    metrics       HOST:PORT for Prometheus
    trust         open code-carrying formats although no known key signed them
    macs_per_s    that placement may reckon with; default: unknown
    events        where its log lines go; default: stderr
    """

    name: str | None = None
    link: Link = field(default_factory=Link)
    memory_bytes: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    queue: int = 8
    metrics: str | None = None
    trust: bool = False
    macs_per_s: float | None = None
    events: TextIO | None = None


def run_node(options: NodeOptions) -> None:
    """Be a node until SIGTERM or SIGINT; then withdraw, answer what waits, and return within a second.

    UsageError for a name that cannot be or is taken, an endpoint that cannot be meant, and what ``open_bus`` raises.
    FleetError when another machine's node has this name.
    """
    _check(options)
    with until_told() as stop, claimed(options) as name:
        log = Log(name, options.events)
        logging.getLogger("edgevit.fleet").addHandler(Heard(log))
        node = Node(options, name, log)
        try:
            node.start()
            node.beat_until(stop)
        finally:
            watchdog = threading.Timer(END_S, os._exit, (0,))  # a link that was cut can hold a session open for long
            watchdog.daemon = True
            if stop.is_set():
                watchdog.start()
            node.close()
            log.close()
            watchdog.cancel()


class Node:
    """One node, between ``start`` and ``close``."""

    def __init__(self, options: NodeOptions, name: str, log: Log) -> None:
        self.options, self.name, self.log = options, name, log
        # Of two nodes of one name the younger one gives way, so that it must be told which is younger.
        self.incarnation = f"{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(4)}"
        self.memory_bytes = options.memory_bytes or available_memory() // 2
        self.names = Names(options.link.cluster)
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.runtimes = tuple(name for name, row in registry.rows("runtime").items() if row.on_this_machine().able)
        self._elders: dict[
            str, float
        ] = {}  # incarnations of our name that began before ours -> since when they are seen
        self._look_at = 0.0
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Until the live token is out."""
        stack, options = self._stack, self.options
        self.bus = _open(options.link, self.name)
        stack.callback(self.log.info, "closed")
        stack.callback(self.bus.close)
        self._keep(self.bus.watch(self.names.live(self.name), self._met))
        self.engine = Engine(
            self.bus,
            self.names,
            self.name,
            self.incarnation,
            threads=checked_threads(options.threads),
            queue=options.queue,
            trust=options.trust,
            log=self.log,
        )
        trusted = partial(trusted_keys, options.link.identity)
        station = Station(self.bus, self.names, self.name, self.log)
        self.holdings = Holdings(station, self.engine, memory_bytes=self.memory_bytes, trusted=trusted)
        controller = Controller(self.bus, self.names, self.name, self.incarnation, self.holdings, log=self.log)
        for piece in (self.holdings, controller, self.engine):
            stack.callback(piece.close)
        self.holdings.open()
        self._keep(
            serve_profiles(self.bus, self.names, self.name, store=self.holdings.store, trusted=trusted, log=self.log)
        )
        self._keep(self.bus.serve(self.names.info(self.name), self._tell))
        self._keep(self.bus.serve(self.names.log(self.name), self.log.serve))
        if options.metrics:
            self._keep(serve_metrics(options.metrics, self.beat))
        self.log.info("up", incarnation=self.incarnation, memory_bytes=self.memory_bytes)
        self._keep(self.bus.announce(self.names.live(self.name, self.incarnation)))
        controller.open()

    def beat_until(self, stop: threading.Event) -> None:
        """Publish a beat every ``BEAT_S``. FleetError when an older node has this node's name."""
        due = time.monotonic()
        for seq in itertools.count(1):
            if stop.is_set():
                return
            self.bus.publish(self.names.beat(self.name), self.beat(seq).encode())
            if self._has_namesake():
                raise FleetError(
                    f"another machine's node is called {self.name} too, and was there first",
                    hint="edgevit node --name OTHER",
                )
            due = max(due + BEAT_S, time.monotonic())  # late is late: no burst afterwards
            stop.wait(due - time.monotonic())

    def beat(self, seq: int = 0) -> Beat:
        return Beat(
            node=self.name,
            incarnation=self.incarnation,
            seq=seq,
            rss_bytes=resident_bytes(),
            memory_bytes=self.memory_bytes,
            free_bytes=self.holdings.free_bytes,
            load=round(os.getloadavg()[0] / usable_cores(), 3) if hasattr(os, "getloadavg") else None,
            drained=self.holdings.drained,
            parts=self.engine.figures(),
        )

    def info(self) -> Info:
        return Info(
            node=self.name,
            incarnation=self.incarnation,
            edgevit=registry.own_version(),
            arch=arch(),
            system=platform.system(),
            python=platform.python_version(),
            cores=usable_cores(),
            runtimes=self.runtimes,
            memory_bytes=self.memory_bytes,
            free_bytes=self.holdings.free_bytes,
            macs_per_s=self.options.macs_per_s,
            drained=self.holdings.drained,
            labels=dict(self.options.labels),
            held=self.holdings.held(),
            placements=self.holdings.placements(),
            started=self.started,
        )

    def close(self) -> None:
        """Withdraw everything: the live token, then the parts with what waits for them, then the rest."""
        self._stack.close()

    def _keep(self, closer: Closer) -> None:
        self._stack.callback(closer.close)

    def _tell(self, question: Question) -> None:
        question.answer(self.info().encode())
        question.finish()

    def _met(self, key: str, there: bool) -> None:
        incarnation = self.names.steps(key)[-1]
        if there and incarnation < self.incarnation:
            self._elders[incarnation] = time.monotonic()
        elif not there:
            self._elders.pop(incarnation, None)

    def _has_namesake(self) -> bool:
        """Whether an older node of our name is there. Any node can announce one; with identities it must answer too."""
        now = time.monotonic()
        elders = {incarnation for incarnation, since in self._elders.copy().items() if now - since > NAMESAKE_S}
        if not elders or now < self._look_at:
            return False
        if self.bus.identity is None:
            return True
        self._look_at = now + LOOK_S
        infos = known_infos(self.bus, self.names)
        return any(one.node == self.name and one.incarnation in elders for one in infos)


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def available_memory() -> int:
    """Bytes that could be had now: what the kernel thinks, within the limits of this process's control groups."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text()
        found.append(int(re.findall(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024)
    if (left := cgroups.memory_left()) is not None:
        found.append(left)
    if not found:
        with contextlib.suppress(ValueError, AttributeError, OSError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return max(0, min(found, default=1 << 30))


def _check(options: NodeOptions) -> None:
    for what, number in (("memory", options.memory_bytes), ("threads", options.threads), ("queue", options.queue)):
        if number is not None and number < 1:
            raise UsageError(f"--{what} must be 1 or more, got {number}", hint=f"leave --{what} out")
    checked_threads(options.threads)
    if options.metrics is not None:
        host_port(options.metrics)


def _open(link: Link, name: str) -> Bus:
    if link.identity is None:
        return open_bus(link, "node", name)
    from edgevit.fleet.trust.renewing_bus import open_renewing_bus

    return open_renewing_bus(link, "node", name)


# --- name and signals ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(options: NodeOptions) -> Iterator[str]:
    """The node's name, which no other process of this machine has while the block runs. UsageError when it is taken."""
    if options.name is not None:
        names: Iterator[str] = iter([checked("node", options.name)])
    else:
        first = _default_name(options.link)
        names = (first if index == 1 else f"{first[:60]}-{index}" for index in range(1, _SAME_NAME))
    for name in names:
        with _lock_file(name) as file:
            if _locked(file):
                yield name
                return
    raise UsageError(
        f"a node called {options.name or _default_name(options.link)} runs on this machine already",
        hint="edgevit node --name OTHER",
    )


def _lock_file(name: str) -> IO[str]:
    folder = node_home(name)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (folder / "lock").open("a")
    except OSError as exc:
        said = (exc.strerror or str(exc)).lower()
        raise UsageError(f"{folder} cannot be written: {said}", hint="set EDGEVIT_HOME to another folder") from exc


def _default_name(link: Link) -> str:
    if link.identity is not None:
        from edgevit.fleet.trust.identity import open_identity

        return open_identity(link.identity, role="node").name
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname().partition(".")[0]).strip("-._")
    return host[:60] or "node"


def _locked(file: IO[str]) -> bool:
    """Whether this process has the file now. The lock ends with the process, however that dies."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
