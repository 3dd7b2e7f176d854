"""What each role may do on the bus, as Zenoh's access control: everything else is refused.

A role is the common name of the certificate at the other end of a link. Nodes, routers and everyone else filter what
comes in from it, and send to it nothing below keys that it has no business with. Zenoh cannot change these rules at
runtime, knows names only one by one, and a name that is enrolled later must be let in: hence roles and not lists of
devices. That a node does not pass for another one is not left to these rules but to what is sealed (sealed_bus).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgevit.fleet.bus.names import Names

_ALL = (
    "put",
    "delete",
    "declare_subscriber",
    "query",
    "reply",
    "declare_queryable",
    "liveliness_token",
    "liveliness_query",
    "declare_liveliness_subscriber",
)
_WATCH = ("liveliness_query", "declare_liveliness_subscriber")
_SERVE = ("declare_queryable", "reply")

# role -> (what it may send, below which keys of the cluster)
_MAY: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "node": (
        (_SERVE, ("hello/*", "infer/*/*/*", "info/*", "log/*", "order/*/*", "place/*", "blob/*/*")),
        (("query",), ("hello/*", "info/*", "order/*/apply", "place/*", "blob/*/*", "ca/*")),
        (("liveliness_token",), ("live/*/*", "ready/*/*/*/*", "control/*/*")),
        (_WATCH, ("live/*/*", "ready/*/*/*/*", "control/*/*")),
        (("put",), ("beat/*", "job/*/*")),
        (("declare_subscriber",), ("beat/*",)),
    ),
    "client": (
        (("query",), ("hello/*", "infer/*/*/*", "info/*", "place/*", "ca/*")),
        (_WATCH, ("live/*/*", "ready/*/*/*/*")),
        (("declare_subscriber",), ("beat/*",)),
    ),
    "operator": (
        (("query",), ("**",)),
        (_SERVE, ("hello/*", "blob/*/*", "ca/*")),
        (_WATCH, ("**",)),
        (("declare_subscriber",), ("**",)),
    ),
    "router": ((_ALL, ("**",)),),
}


def access_control(cluster: str) -> dict[str, Any]:
    """The ``access_control`` setting for every process with an identity."""
    root = Names(cluster).root
    rules, policies = [], []
    for role, allowed in _MAY.items():
        known = sorted({key for _, keys in allowed for key in keys})
        mine = [_rule(f"to-{role}", "egress", _ALL, root, known)]
        mine += [_rule(f"{role}-{n}", "ingress", said, root, keys) for n, (said, keys) in enumerate(allowed)]
        rules += mine
        policies.append({"rules": [rule["id"] for rule in mine], "subjects": [role]})
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": [{"id": role, "cert_common_names": [role]} for role in _MAY],
        "policies": policies,
    }


def _rule(id: str, flow: str, said: Iterable[str], root: str, keys: Iterable[str]) -> dict[str, Any]:
    below = [f"{root}/{key}" for key in keys]
    return {"id": id, "permission": "allow", "flows": [flow], "messages": list(said), "key_exprs": below}
