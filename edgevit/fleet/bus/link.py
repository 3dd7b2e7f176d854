"""How a process reaches the fleet, and the bus that comes of it.

Left as it is, everything stays on this machine: processes of this user find each other (``here``), and nobody else's.
Off this machine nothing is said in the clear unless ``insecure`` is given: endpoints are ``tls/…`` with an
``identity``. On a loopback port without one, who connects has to know this user's secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from edgevit.errors import UsageError
from edgevit.fleet.bus.names import CLUSTER, checked

Role = Literal["node", "client", "operator", "router"]
Mode = Literal["peer", "client", "router"]
ENCRYPTED = ("tls", "quic")
PROTOCOLS = ("tcp", *ENCRYPTED)
IDENTITY_FILES = ("key.pem", "cert.pem", "ca.pem")


@dataclass(frozen=True, slots=True)
class Link:
    """How a process reaches the fleet.

    mode      peer: a link to everyone whom it hears of, from those it connects to or, if none are named, by multicast;
              client: one link to a router, for hosts that reach nothing else; router: forwards for its clients
    listen    endpoints such as ``tls/0.0.0.0:7447``. A node that names none listens on a free port
    connect   endpoints of nodes or routers; any one that is up will do
    identity  folder with key.pem, cert.pem and ca.pem. Both ends of a link must have one of the same CA
    insecure  plain ``tcp/…`` that asks for nothing is meant; on one end, it must be on the other
    wan       a longer lease, for links that lose packets: a dead one is noticed after 5 s instead of 1 s
    """

    mode: Mode = "peer"
    listen: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()
    identity: Path | None = None
    insecure: bool = False
    cluster: str = CLUSTER
    wan: bool = False

    @property
    def here(self) -> bool:
        """Whether it names nobody: then all stays on this machine."""
        return not self.listen and not self.connect and self.identity is None

    def check(self) -> None:
        """UsageError where it contradicts itself, or would send in the clear off this machine."""
        checked("cluster", self.cluster)
        if self.mode == "router" and not self.listen:
            raise UsageError("a router needs an endpoint to listen on", hint="--listen tls/0.0.0.0:7447")
        if self.mode == "client" and not self.connect:
            raise UsageError("a client of a router must name it", hint="--connect tls/ROUTER:7447")
        for endpoint in (*self.listen, *self.connect):
            self._check_endpoint(endpoint)
        if self.identity is not None:
            for name in IDENTITY_FILES:
                if not (self.identity / name).is_file():
                    raise UsageError(
                        f"{self.identity} is no identity: {name} is missing",
                        hint="edgevit enroll NODE, on the machine with the fleet's CA, makes one",
                    )

    def _check_endpoint(self, endpoint: str) -> None:
        protocol, slash, address = endpoint.partition("/")
        if protocol not in PROTOCOLS or not slash or ":" not in address:
            raise UsageError(f"{endpoint!r} is no endpoint", hint="for example tls/192.168.1.5:7447")
        if protocol in ENCRYPTED:
            if self.identity is None:
                raise UsageError(
                    f"{endpoint} needs an identity",
                    hint="--identity FOLDER; edgevit enroll NODE makes one, on the machine with the fleet's CA",
                )
        elif self.identity is not None:
            raise UsageError(f"{endpoint} would not use the identity", hint=f"tls/{address}")
        elif not self.insecure and not loopback(endpoint):
            raise UsageError(
                f"{endpoint} leaves this machine without encryption",
                hint="edgevit fleet ca init, then edgevit enroll NODE and tls/… endpoints; or --insecure",
            )


def loopback(endpoint: str) -> bool:
    """Whether nothing but this machine is reached by it."""
    host = endpoint.partition("/")[2].partition("?")[0].partition("#")[0].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
