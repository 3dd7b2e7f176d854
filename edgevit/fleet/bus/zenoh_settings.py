"""Zenoh's configuration for a link. docs/explanation/fleet.md says why each setting is as it is.

Of any two processes only one should dial the other (rule 7). If both do, a link that is opened late, after one of them
was stopped for a while, joins a transport whose first link is dead already, and what was declared over that one is
lost: a token stays unseen, or two peers stay unlinked, until the next break. Measured, a node stopped for 1.6 s, left
for up to 0.4 s and stopped again: not whole after 20 to 60 s in 22 of 171 rounds over TCP; with one that dials, in 1 of
174.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from edgevit.fleet.bus import acl
from edgevit.fleet.bus.here import Entry
from edgevit.fleet.bus.link import Link, Role, loopback
from edgevit.fleet.bus.messages import MAX_PAYLOAD
from edgevit.fleet.bus.own_secret import USER, secret

LEASE_MS, WAN_LEASE_MS = 1000, 5000
SESSIONS = 10_000  # at once; Zenoh's own limit of 1000 is too low for a router


def lease_ms(link: Link) -> int:
    """After how long without a sign of life a link is taken for dead."""
    return WAN_LEASE_MS if link.wan else LEASE_MS


def settings(link: Link, role: Role, entry: Entry | None = None) -> dict[str, Any]:
    """Zenoh's settings for a link, and this machine's entry where there is one."""
    listen, connect = link.listen, link.connect
    if entry is not None:
        listen, connect = (entry.endpoint,), entry.others()
    elif link.mode == "peer" and not listen and (role == "node" or not connect):
        # peers hear of each other through a router, and are linked directly only if one of them listens
        protocol = "tcp" if link.identity is None else "tls"
        host = "127.0.0.1" if connect and all(map(loopback, connect)) else "0.0.0.0"
        listen = (f"{protocol}/{host}:0",)
    lease = lease_ms(link)
    found: dict[str, Any] = {
        "mode": link.mode,
        "listen/endpoints": list(listen),
        "connect/endpoints": list(connect),
        "connect/retry": {"period_init_ms": 100, "period_max_ms": 1000, "period_increase_factor": 2},
        "scouting/multicast/enabled": entry is None and not connect and not all(map(loopback, listen)),
        "scouting/gossip/enabled": True,
        "transport/shared_memory/enabled": False,
        "transport/unicast/max_sessions": SESSIONS,
        "transport/unicast/accept_pending": SESSIONS,
        "transport/link/rx/max_message_size": MAX_PAYLOAD + (1 << 20),
        "transport/link/tx/lease": lease,
        "transport/link/tx/keep_alive": 4,
        "transport/link/tx/queue/congestion_control/drop": {
            "wait_before_drop": 20_000,
            "max_wait_before_drop_fragments": 100_000,
        },
    }
    if entry is not None:  # everyone dials those who were there before, and nobody else (here)
        found["scouting/gossip/autoconnect"] = []
    if link.mode == "peer":
        # the greater id dials: a client, which may be unreachable, then who names endpoints, which is dialing those
        rank = "f" if role != "node" else "8" if connect else "1"
        found["id"] = f"1{uuid4().hex[:29]}{rank}0"  # no leading 0; compared from its last byte on
        if role == "node":
            strategy = {"peer": {"to_router": "always", "to_peer": "greater-zid"}}
            found |= {f"scouting/{how}/autoconnect_strategy": strategy for how in ("multicast", "gossip")}
    if link.mode == "router":  # forwards on the threads that read from everyone: it must not wait for one of them
        found["qos/network"] = [
            {"messages": ["query"], "key_exprs": ["**"], "overwrite": {"congestion_control": "drop"}}
        ]
    if link.identity is None and not link.insecure and any(one.startswith("tcp/") for one in (*listen, *connect)):
        file, password = secret()
        found["transport/auth/usrpwd"] = {"user": USER, "password": password, "dictionary_file": str(file)}
    if link.identity is not None:
        key, cert, ca = (str(link.identity / name) for name in ("key.pem", "cert.pem", "ca.pem"))
        found |= {
            "transport/link/protocols": ["tls", "quic"],
            "transport/link/tls/root_ca_certificate": ca,
            "transport/link/tls/enable_mtls": True,
            "transport/link/tls/listen_private_key": key,
            "transport/link/tls/listen_certificate": cert,
            "transport/link/tls/connect_private_key": key,
            "transport/link/tls/connect_certificate": cert,
            "transport/link/tls/verify_name_on_connect": False,
            "transport/link/tls/close_link_on_expiration": True,
            "access_control": acl.access_control(link.cluster),
        }
    return found
