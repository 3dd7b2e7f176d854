"""Signed orders: a node runs only what an operator whose key it knows has released.

The operator's Ed25519 key, the one that signs artifacts (edgevit/signing.py), signs all of a placement but ``step`` and
``nodes``. What these say is bound by what is signed: every node keeps what the operator gave it, and only nodes that
the operator named as hosts may be given more, of the same parts. An elected controller, or a node that passes for one,
can have parts taken over, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from edgevit import signing
from edgevit.errors import BadArtifact, EdgeVitError, FleetError
from edgevit.fleet.bus.messages import Message, Name, Placement
from edgevit.foreign import read_json

TRUSTED = "trusted.json"  # in a node's identity folder: operators' public keys, hex -> name
_DOMAIN = "edgevit placement, signature version 1"
_UNSIGNED = {"step", "nodes", "signature"}  # of a placement; its key is signed
_SHOWN = 16  # hex digits that stand for a key in sentences


class SignedOrder(Message):
    """The payload of ``order/<node>/<purpose>``: one operator's word to one node. All but the signature's own fields is
    signed, under a domain of that purpose."""

    purpose: ClassVar[str]
    node: Name
    key: str = ""
    signature: str = ""

    @classmethod
    def signed(cls, **fields: Any) -> Self:
        """Signed with this user's key. pydantic's ValidationError for fields that are no such order."""
        order = cls(**fields)
        key, signature = signing.sign_content(cls._domain(), order._content())
        return order.model_copy(update={"key": key, "signature": signature})

    def check(self, trusted: Mapping[str, str]) -> None:
        """FleetError unless a trusted key signed it."""
        fits = self.key in trusted and signing.content_fits(self._domain(), self._content(), self.key, self.signature)
        if not fits:
            raise FleetError(f"the order to {self.purpose} is not signed by an operator who is trusted here")

    @classmethod
    def _domain(cls) -> str:
        return f"edgevit {cls.purpose}, signature version 1"

    def _content(self) -> bytes:
        return _canonical(self, {"key", "signature"})


def sign_placement(fields: Mapping[str, Any]) -> Placement:
    """The placement of these fields (all but ``given``, ``key`` and ``signature``; ``nodes`` is what is given), signed
    with this user's key, which is made now if there is none. pydantic's ValidationError for fields that are no
    placement."""
    draft = Placement(**{**fields, "given": fields["nodes"], "key": signing.own_key(), "signature": "0" * 128})
    _, signature = signing.sign_content(_DOMAIN, _canonical(draft, _UNSIGNED))
    return draft.model_copy(update={"signature": signature})


def check_placement(placement: Placement, trusted: Mapping[str, str]) -> None:
    """BadArtifact unless the signature is that of the placement's key and it gives what was signed, FleetError unless
    ``trusted`` holds the key."""
    if not signing.content_fits(_DOMAIN, _canonical(placement, _UNSIGNED), placement.key, placement.signature):
        raise BadArtifact(
            f"the signature of the order for {placement.name} does not fit it: one of the two was altered",
            hint="deploy it again",
        )
    if placement.key not in trusted:
        raise FleetError(
            f"the order for {placement.name} is signed with a key that is not trusted here ({placement.key[:_SHOWN]}…)",
            hint=f"deploy as an operator whom this node knows, or enroll it again with --trust {placement.key}; "
            f"a node without an identity: edgevit keys trust {placement.key}",
        )

    if not _bounded(placement):
        raise BadArtifact(
            f"the order for {placement.name} does not give nodes what its operator gave them",
            hint="deploy it again",
        )


def trusts(placement: Placement, trusted: Mapping[str, str]) -> bool:
    """Whether one of the ``trusted`` keys signed it."""
    try:
        check_placement(placement, trusted)
    except EdgeVitError:
        return False
    return True


def order_keys(identity: Path | None = None) -> dict[str, str]:
    """Public keys whose orders an operator believes: those that are trusted here, and this user's own."""
    return {**trusted_keys(identity), signing.own_key(): "this user"}


def _bounded(placement: Placement) -> bool:
    """Whether all keep what they were given, and only hosts have more, of the same parts."""
    given, now = pairs(placement.given), pairs(placement.nodes)
    parts, more = {part for _, part in given}, now - given
    hosts = placement.given.keys() | set(placement.hosts)
    return (
        given <= now
        and placement.nodes.keys() <= hosts
        and all(placement.step and node in placement.hosts and part in parts for node, part in more)
    )


def pairs(where: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
    """(node, part) of a placement."""
    return {(node, part) for node, parts in where.items() for part in parts}


def trusted_keys(identity: Path | None = None) -> dict[str, str]:
    """Public keys whose orders are taken here, hex -> name: those given at enrolment, which lie in the ``identity``
    folder; without one this user's own and those of ``edgevit keys trust``. Read anew for every order, since the user's
    own is made by the first deploy. EdgeVitError when the file cannot be read."""
    if identity is None:
        return signing.known_keys()
    path = identity / TRUSTED
    hint = "enroll this node again: edgevit enroll NAME"
    found = read_json(path, "a list of trusted keys", error=EdgeVitError, hint=hint)
    if not isinstance(found, dict):
        raise EdgeVitError(f"{path} cannot be read: it is no list of trusted keys", hint=hint)
    return {str(key): str(name) for key, name in found.items()}


def _canonical(message: Message, unsigned: set[str]) -> bytes:
    """One spelling of all fields but those ``unsigned``."""
    fields = message.model_dump(mode="json", exclude=unsigned)
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
