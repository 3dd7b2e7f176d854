"""Options that say which fleet is meant, and how this process reaches it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit.errors import UsageError
from edgevit.verbs.help import of_fleet, taking

_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3}
_TIME = re.compile(r"(\d+(?:\.\d*)?)\s*(ms|s|)")

Listen = Annotated[
    list[str] | None,
    of_fleet("--listen", metavar="ENDPOINT", help="tls/HOST:PORT that others can reach this process at; repeat."),
]
Connect = Annotated[
    list[str] | None,
    of_fleet(
        "--connect", metavar="ENDPOINT", envvar="EDGEVIT_CONNECT", help="tls/HOST:PORT of a node or router; repeat."
    ),
]
IdentityDir = Annotated[
    Path | None,
    of_fleet("--identity", envvar="EDGEVIT_IDENTITY", help="Folder that edgevit enroll wrote. Needed for tls/…"),
]
Insecure = Annotated[bool, of_fleet("--insecure", help="Plain tcp/… off this machine: anyone can read and order.")]
Cluster = Annotated[
    str, of_fleet("--cluster", envvar="EDGEVIT_CLUSTER", help="Fleets of different names do not see each other.")
]
RouterOnly = Annotated[
    bool,
    of_fleet(
        "--router-only", envvar="EDGEVIT_ROUTER_ONLY", help="This host reaches nobody but the router of --connect."
    ),
]
Wan = Annotated[bool, of_fleet("--wan", help="Over a link that loses packets: notice the dead after 5 s, not 1 s.")]
Where = Annotated[
    str | None,
    of_fleet("--where", help="fleet or embedded (this process). Default: the fleet that serves it, if there is one."),
]
Deadline = Annotated[str, of_fleet("--deadline", help="For each image, e.g. 200ms: then what arrived is fused.")]
Replicas = Annotated[int, of_fleet("--replicas", min=1, help="Copies of every sub-model, each on another node.")]
NodeName = Annotated[str, typer.Argument(metavar="NODE", show_default=False)]
Deployment = Annotated[
    str, typer.Argument(metavar="NAME", help="A deployment: see edgevit fleet status.", show_default=False)
]
Served = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE|ARTIFACT", help="A bundle's folder, or an artifact's.", show_default=False, readable=False
    ),
]

_WHICH: dict[str, tuple[Any, Any]] = {
    "connect": (Connect, None),
    "identity": (IdentityDir, None),
    "insecure": (Insecure, False),
    "cluster": (Cluster, "default"),
    "router_only": (RouterOnly, False),
}


def link_of(
    listen: list[str] | None = None,
    connect: list[str] | None = None,
    identity: Path | None = None,
    insecure: bool = False,
    cluster: str = "default",
    wan: bool = False,
    router_only: bool = False,
    mode: Any = "peer",
) -> Any:
    """The ``Link`` that these options ask for."""
    from edgevit.fleet.bus.link import Link

    return Link(
        listen=tuple(listen or ()),
        connect=tuple(connect or ()),
        identity=identity,
        insecure=insecure,
        cluster=cluster,
        wan=wan,
        mode="client" if router_only else mode,
    )


def linked(verb: Callable[..., None]) -> Callable[..., None]:
    """``verb`` with the options that say which fleet, before its ``--json``: it is called with their ``link``."""

    def called(**given: Any) -> None:
        verb(link=link_of(**{name: given.pop(name) for name in _WHICH}), **given)

    return taking(verb, _WHICH, called, instead_of="link")


def seconds(option: str, text: str) -> float:
    """ "200ms", "1.5s" or a number of seconds; UsageError for anything else."""
    found = _TIME.fullmatch(text.strip())
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not value > 0:
        raise UsageError(f"{option} {text!r} is not a time", hint=f"for example {option} 200ms")
    return value
