"""A bus over a link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgevit import registry
from edgevit.errors import UsageError
from edgevit.fleet.bus.link import Link, Role
from edgevit.fleet.bus.names import Names, checked
from edgevit.fleet.bus.papers import check_role
from edgevit.fleet.bus.transport import Bus


def open_bus(link: Link, role: Role, name: str | None = None) -> Bus:
    """A bus over ``link``, sealed where it has an identity. ``name`` is how others see the process: of a node with an
    identity the name in that, else by default its role.

    Returns when the links to those who are there are up, at most 0.5 s later. UsageError where ``link`` or ``name``
    cannot be meant, MissingDependency without Zenoh, FleetError where it cannot listen, a client reaches no router, or
    the identity is of another role.
    """
    link.check()
    registry.need("the fleet", ("eclipse-zenoh",), "edgevit[fleet]")
    from edgevit.fleet.bus.zenoh_bus import ZenohBus

    name = checked("node", name or role)
    if link.identity is None:
        return ZenohBus(link, role, name)
    return _sealed(link, link.identity, role, name, ZenohBus)


def _sealed(link: Link, identity: Path, role: Role, name: str, engine: Callable[[Link, Role, str], Bus]) -> Bus:
    from edgevit.fleet.bus.sealed_bus import SealedBus
    from edgevit.fleet.bus.seals import Seals

    registry.need("a fleet's certificates", ("cryptography",), "edgevit[fleet]")
    seals = Seals(identity)
    check_role(identity, seals.own.role, role)
    if role == "node":
        if name not in (role, seals.own.name):
            raise UsageError(
                f"{identity} is the identity of {seals.own.name}, and the node is called {name}",
                hint=f"leave --name out, or edgevit enroll {name}",
            )
        name = seals.own.name
    return SealedBus(engine(link, role, name), seals, Names(link.cluster), name)
