"""A site's router: forwards between nodes and clients that do not reach each other, and between sites.

Zenoh's router mode in this process, nothing else to install. It holds ``zenoh_settings.SESSIONS`` sessions, or as many
as the system lets it have open files; with an identity it lets each role do what ``acl`` says.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

from edgevit import render
from edgevit.fleet.agent.ending import until_told, wait_until
from edgevit.fleet.bus.link import Link
from edgevit.fleet.trust.renewing_bus import open_renewing_bus

if sys.platform != "win32":
    import resource


def run_router(link: Link, stop: threading.Event | None = None, tell: render.Tell = render.tell) -> None:
    """Route until SIGINT or SIGTERM, or until ``stop`` is set. In the main thread; errors as of ``open_bus``.

    Its certificate is renewed while the fleet's CA serves; the links then come up anew.
    """
    _allow_files()
    with until_told(stop) as over:
        bus = open_renewing_bus(replace(link, mode="router"), "router")
        tell(
            "ready", f"routing on {', '.join(link.listen) or 'this machine'}; Ctrl-C ends it", listen=list(link.listen)
        )
        try:
            wait_until(over)
        finally:
            bus.close()
            tell("ended", "ended")


def _allow_files() -> None:
    """Every session is an open file, of which a process may often have 1024 until it asks for more."""
    if sys.platform != "win32":
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
