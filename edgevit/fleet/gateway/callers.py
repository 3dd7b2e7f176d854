"""Who may ask what.

a browser page      is a stranger: only a page of this server's own origin is answered. A page elsewhere that is
                    led here by DNS shows itself by its Host, one that posts across origins by its Origin
any program         may use the model, unless the gateway is private
this user           may also see the fleet's state (/events, /metrics): a program of the same user on the same
                    machine, or whoever shows the token
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from edgevit.artifact.files import write_private_once
from edgevit.home import home

OPEN = ("/v2/health/live", "/v2/health/ready", "/healthz")  # say nothing but whether it works
REVEALING = ("/events", "/metrics")  # the fleet's machines, their load and what happened
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")  # whoever asks through a proxy is not its user
_ESTABLISHED = "01"


@dataclass(frozen=True)
class Callers:
    """hosts    names, beside IP addresses and localhost, that this server is known by
    token    opens what is not for everyone
    private  everything but health needs the token, or this user
    """

    hosts: frozenset[str] = frozenset()
    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    private: bool = False

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """(status, sentence) for a request that is not answered, or None."""
        headers = Headers(scope=scope)
        if said := self._foreign(headers, scope):
            return 403, said
        path = scope["path"]
        guarded = path in REVEALING or (self.private and path not in OPEN and path != "/")
        if not guarded or self._shown(headers, scope) or _same_user(headers, scope):
            return None
        return 401, f"{path} is for this gateway's user: send Authorization: Bearer, and the token edgevit keeps for it"

    def _foreign(self, headers: Headers, scope: Scope) -> str | None:
        """Why a browser page must not be answered, or None."""
        host = headers.get("host", "")
        if host and not self._ours(host):
            return f"this server is not known as {host[:80]}; edgevit serve --allow-host adds a name"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return "pages of other sites are not answered"
        # a link to the dashboard may be followed: it shows nothing before its own script asks
        followed = (scope["method"], scope["path"], headers.get("sec-fetch-mode")) == ("GET", "/", "navigate")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed:
            return "pages of other sites are not answered"
        return None

    def _ours(self, host: str) -> bool:
        """Whether a Host header names this server. Any address does: names are what DNS can point elsewhere."""
        name = host.lower()
        name = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
        if name == "localhost" or name.endswith(".localhost") or name in self.hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _shown(self, headers: Headers, scope: Scope) -> bool:
        """Whether the token was sent; in the address for /events, as a browser's EventSource sends no headers."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = ""
        if not given and scope["path"] == "/events":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.strip().encode(), self.token.encode())


class Guard:
    """ASGI middleware: a request that ``callers`` refuse goes no further."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self.app, self.callers = app, callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self.callers.refusal(scope) if scope["type"] == "http" else None
        if refused is None:
            await self.app(scope, receive, send)
            return
        status, sentence = refused
        headers = {"Connection": "close"} | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
        await JSONResponse({"error": sentence}, status, headers)(scope, receive, send)


def names_of(host: str, allowed: Iterable[str] = ()) -> frozenset[str]:
    """The names by which a server that listens on ``host`` may be asked; this machine's own where it listens beyond
    loopback."""
    names = {name.lower().rstrip(".") for name in allowed} | {host.lower()}
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    return frozenset(names)


def token_file() -> Path:
    """The file with this user's token."""
    return home() / "gateway.token"


def own_token() -> str:
    """This user's token, made on first use and readable by nobody else."""
    file = token_file()
    if file.exists() and not file.stat().st_size:  # no token is not a token that everyone knows
        file.unlink()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists():
        write_private_once(file, secrets.token_hex(32))
    return file.read_text("ascii").strip()


def _same_user(headers: Headers, scope: Scope) -> bool:
    """Whether the other end of the connection is a process of this user (or root) on this machine, as the kernel says.

    Only where /proc tells, and not of what a proxy forwards.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or any(name in headers for name in FORWARDED) or not hasattr(os, "getuid"):
        return False
    try:
        wanted = _shown_by_kernel(*client[:2]), _shown_by_kernel(*server[:2])
    except ValueError:
        return False
    for local, remote, state, owner, inode in _sockets():
        if (local, remote, state) == (*wanted, _ESTABLISHED) and inode != "0":
            return owner in (0, os.getuid())
    return False


def _shown_by_kernel(host: str, port: int) -> tuple[str, int]:
    """An address as ``_sockets`` gives it: IPv4 in IPv6 is IPv4."""
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), port


def _sockets() -> Iterable[tuple[tuple[str, int], tuple[str, int], str, int, str]]:
    """(local, remote, state, uid, inode) of every TCP socket of this machine."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield _end(fields[1]), _end(fields[2]), fields[3], int(fields[7]), fields[9]


def _end(text: str) -> tuple[str, int]:
    """``0100007F:1F90`` -> ("127.0.0.1", 8080): words of 32 bits in the machine's own order."""
    host, _, port = text.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return _shown_by_kernel(str(ip_address(packed)), int(port, 16))
