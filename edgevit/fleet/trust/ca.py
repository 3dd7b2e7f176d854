"""The commands of a fleet's own certificate authority: who may take part, and as what.

Certificates live for days, and are renewed over the bus while they do (renewal.py): Zenoh reads no revocation lists.
``revoke`` therefore ends a name when its certificate does. ``rotate`` ends all at once: it replaces the CA, and what is
started with an identity of the new one takes nothing from the old. Nothing changes among processes that go on with
their old identity, until their certificates end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from edgevit import signing
from edgevit.artifact.staging import publish, staged
from edgevit.errors import FleetError, UnknownName, UsageError
from edgevit.fleet.bus.link import Role
from edgevit.fleet.bus.names import checked
from edgevit.fleet.trust.authority import CA_KEY, DAYS, ISSUED, Entry, Issued, alone, ca_folder, open_ca, replace_ca
from edgevit.fleet.trust.certificates import addresses, key_bytes, new_key, pem
from edgevit.fleet.trust.identity import RECORD, need_cryptography, shown, utc_now, write_identity
from edgevit.foreign import TEXT_BYTES, read_bounded, read_json
from edgevit.home import fleet_home

CA_DAYS = 3650.0
MOST_DAYS = 366.0  # of a certificate: nothing but its end makes others refuse it
OWN = "fleet-ca"  # the name that ``ca serve`` enrolls itself under
ROLES: tuple[Role, ...] = get_args(Role)
_DNS_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True, slots=True)
class Created:
    """What ``init_ca`` made."""

    folder: Path
    ends: datetime

    def lines(self) -> list[str]:
        return [
            f"fleet CA in {self.folder}, until {shown(self.ends)}",
            "its key (ca.key) is all that is needed to join your fleet: back it up, and give it to nobody",
            "next: edgevit enroll NAME for every node, router (--role router) and operator (--role operator)",
        ]

    def record(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "ends": self.ends.isoformat()}


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An identity folder that is to be copied to its device."""

    name: str
    role: str
    folder: Path
    ends: datetime
    hosts: tuple[str, ...]

    def lines(self) -> list[str]:
        return [
            f"{self.name}, {self.role}, until {shown(self.ends)}: {self.folder}",
            f"it holds a private key: copy it (scp -rp {self.folder} {self.name}:), then remove it here",
            "renewed by itself while `edgevit fleet ca serve` runs",
        ]

    def record(self) -> dict[str, Any]:
        return {
            "node": self.name,
            "role": self.role,
            "identity": str(self.folder),
            "ends": self.ends.isoformat(),
            "hosts": list(self.hosts),
        }


@dataclass(frozen=True, slots=True)
class Revoked:
    """A name that is renewed no more. ``ends``: when the last certificate it has does; None if that is past."""

    name: str
    role: str
    ends: datetime | None

    def lines(self) -> list[str]:
        if self.ends is None:
            return [f"{self.name} ({self.role}) is revoked; it has no certificate that is still good"]
        return [
            f"{self.name} ({self.role}) is renewed no more; the certificate it has ends on {shown(self.ends)}",
            "until then it can take part. To cut it off now: edgevit fleet ca rotate, which all others must follow",
        ]

    def record(self) -> dict[str, Any]:
        return {"node": self.name, "role": self.role, "ends": self.ends.isoformat() if self.ends else None}


@dataclass(frozen=True, slots=True)
class Rotated:
    """A new CA, and (name, role) of those that were enrolled with the old one and not revoked."""

    folder: Path
    ends: datetime
    again: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """What to do now, routers first: they decide who gets in."""
        first = sorted(self.again, key=lambda each: (each[1] != "router", each[0]))
        return [
            f"new fleet CA in {self.folder}, until {shown(self.ends)}; the old key is deleted, nothing is re-issued",
            "whatever has a new identity takes nothing from an old one; what has old ones goes on among itself until"
            " they end. Enroll again, and copy each folder to its device in place of the old one, routers first:",
            *(f"  edgevit enroll {name}    # {role}" for name, role in first),
            "then start edgevit fleet ca serve again",
        ]

    def record(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "ends": self.ends.isoformat(),
            "enroll_again": [{"node": name, "role": role} for name, role in self.again],
        }


def identity_folder(name: str) -> Path:
    """Where identities are written unless it is said: ``$EDGEVIT_HOME/fleet/identities/NAME``."""
    return fleet_home() / "identities" / name


def init_ca(days: float = CA_DAYS, *, force: bool = False, now: datetime | None = None) -> Created:
    """Make this user's CA. UsageError if there is one, unless ``force``, which forgets the old one and its record."""
    need_cryptography()
    folder = ca_folder()
    with alone():
        if (folder / CA_KEY).exists() and not force:
            raise UsageError(
                f"{folder} holds a CA already",
                hint="edgevit fleet ca rotate replaces it and keeps the names; --force begins from nothing",
            )
        return Created(folder, replace_ca(Issued(), days, now or utc_now()))


def enroll(
    name: str,
    role: Role | None = None,
    *,
    days: float | None = None,
    out: Path | None = None,
    hosts: Sequence[str] = (),
    trusted: Mapping[str, str] | None = None,
    force: bool = False,
    now: datetime | None = None,
) -> Enrolled:
    """Write an identity folder for ``name``: ``out``, else ``$EDGEVIT_HOME/fleet/identities/NAME``.

    ``role`` is node unless it was enrolled before with another; ``hosts`` are further names and IP addresses that it
    is reached under; ``trusted`` are operators' public keys (hex -> name) beside that of this user. A name that was
    enrolled before keeps what is not given here. With ``force`` also one that has a certificate, which is then renewed
    no more.
    UsageError for a name, role or host that cannot be, or a name that is taken.
    """
    now = now or utc_now()
    _check_name(name)
    if role is not None and role not in ROLES:
        raise UnknownName("role", role, ROLES)
    out = out or identity_folder(name)
    with alone():
        authority = open_ca(now=now)
        issued = authority.issued()
        before = issued.nodes.get(name)
        if before is not None and not force:
            _check_free(name, before, now)
        entry = _entry(name, before, role, days, hosts, trusted)
        _check_out(out, name)
        key = new_key()
        certificate = authority.certify(name, entry, key.public_key(), now)
        out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with staged(out) as scratch:
            write_identity(
                scratch,
                name=name,
                role=entry.role,
                key=key_bytes(key),
                certificate=pem(certificate),
                ca=pem(authority.certificate),
                trusted={**entry.trusted, signing.own_key(): "who enrolled it"},
            )
            authority.write(Issued(nodes={**issued.nodes, name: entry}))  # first: what is not on the record is lost
            publish(scratch, out)
    return Enrolled(name, entry.role, out, certificate.not_valid_after_utc, entry.hosts)


def revoke(name: str, *, now: datetime | None = None) -> Revoked:
    """Renew ``name`` no more. UnknownName when it was not enrolled."""
    now = now or utc_now()
    with alone():
        authority = open_ca(now=now)
        issued = authority.issued()
        if name not in issued.nodes:
            raise UnknownName("node", name, issued.nodes)
        entry = issued.nodes[name]
        entry.revoked = entry.revoked or now
        authority.write(issued)
    return Revoked(name, entry.role, entry.ends if entry.ends and entry.ends > now else None)


def rotate(days: float = CA_DAYS, *, now: datetime | None = None) -> Rotated:
    """Replace the CA by a new one, which knows the names of the old but has issued nothing. FleetError without one.

    The old key is deleted. Revoked names stay so until they are enrolled again.
    """
    need_cryptography()
    now, folder = now or utc_now(), ca_folder()
    with alone():
        if not (folder / CA_KEY).exists():
            raise FleetError(f"there is no fleet CA in {folder}", hint="edgevit fleet ca init")
        issued = _names(folder / ISSUED)
        ends = replace_ca(issued, days, now)
    kept = {name: entry.role for name, entry in sorted(issued.nodes.items()) if entry.revoked is None and name != OWN}
    return Rotated(folder, ends, tuple(kept.items()))


def _names(path: Path) -> Issued:
    """The record without its certificates; without names if it cannot be read: a CA must be replaceable in any case."""
    try:
        issued = Issued.model_validate_json(read_bounded(path, TEXT_BYTES, "the record of what was issued"))
    except (UsageError, ValueError):
        return Issued()
    for entry in issued.nodes.values():
        entry.certificates, entry.key = {}, None
    return issued


def _entry(
    name: str,
    before: Entry | None,
    role: Role | None,
    days: float | None,
    hosts: Sequence[str],
    trusted: Mapping[str, str] | None,
) -> Entry:
    """The record of a new enrolment; what is not given is as it was."""
    role = role or (before.role if before else "node")
    if days is None:
        days = before.days if before else DAYS
    if not 0 < days <= MOST_DAYS:
        raise UsageError(
            f"a certificate cannot live for {days:g} days",
            hint=f"at most {MOST_DAYS:g}: only its end makes others refuse it; {DAYS:g} is the default",
        )
    kept = before or Entry(role=role)
    keys = {signing.checked_key(key): who for key, who in trusted.items()} if trusted else kept.trusted
    entry = Entry(role=role, hosts=tuple(hosts) or kept.hosts, trusted=keys, days=days)
    addresses(name, entry.hosts)
    return entry


def _check_free(name: str, entry: Entry, now: datetime) -> None:
    if entry.revoked is None and entry.ends is not None and entry.ends > now:
        raise UsageError(
            f"{name} is enrolled already, as {entry.role}, with a certificate until {shown(entry.ends)}",
            hint="choose another name, or --force: what it has is renewed no more",
        )


def _check_out(out: Path, name: str) -> None:
    """UsageError unless ``out`` is free, or the identity folder that this name had before."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        owner = read_json(out / RECORD, "the record of an identity")["name"]
    except (UsageError, KeyError, TypeError):
        owner = None
    if owner != name:
        whose = "not an identity folder" if owner is None else f"the identity of {owner}"
        raise UsageError(f"{out} is {whose}, and is not replaced", hint="choose another -o")


def _check_name(name: str) -> None:
    """UsageError unless it is good for keys on the bus and for a certificate."""
    if not _DNS_NAME.fullmatch(checked("node", name)):
        raise UsageError(
            f"node {name!r} cannot be enrolled",
            hint="a host name: letters, digits and '-', not at an end, and '.' between",
        )
