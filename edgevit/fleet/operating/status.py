"""Who is alive, what each node runs and how fast: ``edgevit fleet status``, ``nodes`` and ``top``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from edgevit.fleet.agent.known import known_orders
from edgevit.fleet.bus.link import Link
from edgevit.fleet.operating.rows import Status
from edgevit.fleet.operating.watch import ASK_S, Watch, watching
from edgevit.fleet.trust.signatures import trusted_keys, trusts

PLACED_S = 0.5  # for the nodes to say which deployments they know


def status(link: Link, *, wait_s: float = 1.0) -> Status:
    """The fleet now. FleetError when no node is found within ``wait_s``."""
    with watching(link, wait_s) as watch:
        watch.complete(ASK_S)
        return _placed(watch, link)


def top(link: Link, *, every_s: float = 1.0, wait_s: float = 1.0) -> Iterator[Status]:
    """The fleet again and again, until the caller stops."""
    with watching(link, wait_s) as watch:
        watch.complete(ASK_S)
        while True:
            yield _placed(watch, link)
            time.sleep(every_s)


def _placed(watch: Watch, link: Link) -> Status:
    """The status with the newest placement of every deployment, and the nodes that they want."""
    keys = trusted_keys(link.identity)
    known = known_orders(watch.bus, watch.names, accept=lambda one: trusts(one, keys), timeout_s=PLACED_S)
    placements = tuple(known[name].newest for name in sorted(known))
    watch.expect([node for one in placements if not one.withdrawn for node in one.nodes])
    return replace(watch.status(), placements=placements)
