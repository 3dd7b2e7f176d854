"""A link that was cut must not stop the others (docs/explanation/fleet.md, rule 3).

Zenoh sets SO_LINGER to 10 s on its TCP and TLS sockets (zenoh #1101, #2350): closing one whose other end is gone then
blocks a thread that serves all links. For every link that comes up, SO_LINGER is cleared again, and TCP_USER_TIMEOUT
makes the kernel give up on bytes that nobody acknowledges, so that what waits to be written is told so. A socket in a
folder cannot be cut; it is given room for a burst of questions, which Zenoh would drop.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Set

import zenoh
from zenoh.handlers import Callback

from edgevit.fleet.bus.hands import Hands, guarded
from edgevit.fleet.bus.here import UNIX

Address = tuple[str, int] | str  # of a socket in a folder its path
Ends = tuple[Address, Address]  # of this process, of the other one
ROOM = 4 << 20  # bytes that a socket in a folder may hold; the system may allow fewer, and gives fewer by itself
_NO_LINGER = struct.pack("ii", 0, 0)
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_FAMILIES = (*_INTERNET, getattr(socket, "AF_UNIX", None))
_FOLDERS = ("/proc/self/fd", "/dev/fd")  # Linux, macOS; none on Windows


def harden(session: zenoh.Session, user_timeout_ms: int) -> zenoh.LinkEventsListener[None]:
    """Treat every link that this session has or gets, until the listener is undeclared."""
    hands, lock, new = Hands("fleet-harden"), threading.Lock(), set[Ends]()

    def treat_new() -> None:
        with lock:
            links = frozenset(new)
            new.clear()
        if links:  # else those before took them along
            treat(links, user_timeout_ms)

    def changed(event: zenoh.LinkEvent) -> None:
        if event.kind == zenoh.SampleKind.PUT:
            with lock:
                new.add((_address(event.link.src), _address(event.link.dst)))
            hands.put(treat_new)

    callback: Callback[zenoh.LinkEvent] = Callback(lambda event: guarded(changed, event), indirect=False)
    return session.info.declare_link_events_listener(callback, history=True)


def treat(links: Set[Ends], user_timeout_ms: int) -> int:
    """Treat this process's sockets between these ends; how many there were."""
    found = 0
    for other in _sockets():
        with other, contextlib.suppress(OSError):
            if other.family not in _INTERNET:
                found += _widened(other, links)
            elif (other.getsockname()[:2], other.getpeername()[:2]) in links:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
                found += 1
    return found


def _widened(other: socket.socket, links: Set[Ends]) -> bool:
    """Whether it is a socket in a folder between these ends, of which one has a name; it is given room."""
    ours = {other.getsockname(), other.getpeername()} & {path for ends in links for path in ends if path}
    for side in (socket.SO_SNDBUF, socket.SO_RCVBUF) if ours else ():
        other.setsockopt(socket.SOL_SOCKET, side, ROOM)
    return bool(ours)


def _address(locator: str) -> Address:
    """Of ``tcp/10.0.0.1:7447``, ``tls/[::1]:7447?…`` or ``unixsock-stream//folder/name``."""
    if locator.startswith(UNIX):
        return locator.removeprefix(UNIX)
    host, _, port = locator.partition("/")[2].partition("?")[0].partition("#")[0].rpartition(":")
    return host.strip("[]"), int(port)


def _sockets() -> Iterator[socket.socket]:
    """A duplicate of each of this process's stream sockets: what is set on it is set on the original."""
    where = next((folder for folder in _FOLDERS if os.path.isdir(folder)), None)
    for name in os.listdir(where) if where else ():
        with contextlib.suppress(OSError):  # closed since it was listed
            if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
                continue
            other = socket.socket(fileno=os.dup(int(name)))
            if other.type == socket.SOCK_STREAM and other.family in _FAMILIES:
                yield other
            else:
                other.close()
