"""Whether a bundle runs on the fleet or in this process, and the bus to the fleet where it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgevit.artifact.opened import Artifact
from edgevit.bundle.opened import Bundle, opened
from edgevit.errors import FleetError, MissingDependency
from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.session import FleetSession, served_as
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Bus
from edgevit.fleet.trust.renewing_bus import open_renewing_bus

Where = Literal["fleet", "embedded"]
FIND_S = 1.0


@dataclass
class Reached:
    """A fleet that serves a model: the bus, a client on it, and the session."""

    bus: Bus
    client: FleetClient
    session: FleetSession

    def close(self) -> None:
        self.session.close()
        self.client.close()
        self.bus.close()


def reach(model: Bundle | Artifact | Path | str, *, link: Link, where: Where | None = None) -> Reached | None:
    """The fleet that serves a bundle or artifact (or the one at a path), or None: run it in this process.

    A fleet that is named (by endpoints, an identity or a cluster) is used, and so is one of which a node announces
    this revision within a second. Once this machine has deployed it, or with ``where="fleet"``, no such node is a
    FleetError. ``where="embedded"`` does not look. Waits up to that second until all parts are announced.
    """
    if where == "embedded":
        return None
    model = opened(model)
    revision, parts = served_as(model)
    must = where == "fleet" or named(link) or deployed(revision)
    try:
        bus = open_renewing_bus(link, "client")
    except MissingDependency:
        if must:
            raise
        return None
    client = FleetClient(bus, Names(link.cluster))
    try:
        if client.wait(revision, parts, FIND_S):
            return Reached(bus, client, FleetSession(model, client))
        if must:
            raise FleetError(
                f"no node serves {model.path}",
                hint="edgevit fleet status says who is there; edgevit deploy places it; --where embedded runs it here",
            )
    except BaseException:
        client.close()
        bus.close()
        raise
    client.close()
    bus.close()
    return None


def named(link: Link) -> bool:
    """Whether the caller said which fleet."""
    return not link.here or link.cluster != Link().cluster


def deployed(revision: str) -> bool:
    """Whether this machine has deployed that revision."""
    from edgevit.fleet.operating.deploy import deployed_here

    return deployed_here(revision)
