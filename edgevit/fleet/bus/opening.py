"""A bus over a link."""

from __future__ import annotations

from edgevit import registry
from edgevit.fleet.bus.link import Link, Role
from edgevit.fleet.bus.names import checked
from edgevit.fleet.bus.transport import Bus


def open_bus(link: Link, role: Role, name: str | None = None) -> Bus:
    """A bus over ``link``. ``name`` is how others on this machine see the process, by default its role.

    Returns when the links to those who are there are up, at most 0.5 s later. UsageError where ``link`` cannot be
    meant, MissingDependency without Zenoh, FleetError where it cannot listen, or a client reaches no router.
    """
    link.check()
    registry.need("the fleet", ("eclipse-zenoh",), "edgevit[fleet]")
    from edgevit.fleet.bus.zenoh_bus import ZenohBus

    return ZenohBus(link, role, checked("node", name or role))
