"""The CA's folder: its key, and the record that says who gets another certificate.

    $EDGEVIT_HOME/fleet/ca/ca.key        the private key (ECDSA P-256), readable by nobody else
    $EDGEVIT_HOME/fleet/ca/ca.pem        its certificate
    $EDGEVIT_HOME/fleet/ca/issued.json   the record: every name, its role, and the certificates that may be renewed

Only certificates on the record are renewed, whatever their issuer and dates say: none of a revoked name, and none from
before a name was enrolled again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from edgevit.artifact.manifest import parse_versioned
from edgevit.artifact.staging import publish, staged
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.bus.link import Role
from edgevit.fleet.trust.certificates import (
    ca_certificate,
    certified,
    fingerprint,
    key_bytes,
    key_sha256,
    new_key,
    pem,
    read_certificate,
    read_key,
    requested_key,
)
from edgevit.fleet.trust.identity import check_times, locked, need_cryptography, shown, utc_now, write_file
from edgevit.foreign import read_text
from edgevit.home import fleet_home

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate

CA_KEY, CA_CERTIFICATE, ISSUED = "ca.key", "ca.pem", "issued.json"
SCHEMA_VERSION = 1
MOST_CA_DAYS = 36500
DAYS = 7.0  # of a certificate, unless it is said
BACKDATED = timedelta(minutes=5)  # for machines whose clocks are a little behind
NOT_BEFORE = 0.25  # of a certificate's life: earlier than that it is not renewed, so that the record stays short
MOST_CERTIFICATES = 8  # of one name that may be renewed: more are of a device that asks again and again


class Entry(BaseModel):
    """One name on the record.

    hosts         names and addresses, beside its own name, that its certificate is good for
    certificates  SHA-256 of each one that may be renewed -> its end; none after the CA was rotated
    key           SHA-256 of the newest one's key
    revoked       when it was
    """

    model_config = ConfigDict(extra="forbid")

    role: Role
    hosts: tuple[str, ...] = ()
    trusted: dict[str, str] = {}
    days: float = DAYS
    certificates: dict[str, datetime] = {}
    key: str | None = None
    revoked: datetime | None = None

    @property
    def ends(self) -> datetime | None:
        """When the last of its certificates ends."""
        return max(self.certificates.values(), default=None)


class Issued(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    nodes: dict[str, Entry] = {}


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA's key and certificate, as they were when its folder was opened."""

    folder: Path
    key: EllipticCurvePrivateKey
    certificate: Certificate

    def issued(self) -> Issued:
        path = self.folder / ISSUED
        hint = "restore it from a backup, or begin anew: edgevit fleet ca rotate"
        text = read_text(path, "the record of what was issued", error=FleetError, hint=hint)
        return parse_versioned(
            text, path, Issued, SCHEMA_VERSION, "CA record", "folder", "begin anew: edgevit fleet ca rotate"
        )

    def write(self, issued: Issued) -> None:
        write_file(self.folder / ISSUED, issued.model_dump_json(indent=2).encode() + b"\n", private=True)

    def certify(
        self, name: str, entry: Entry, key: EllipticCurvePublicKey, now: datetime, ends: datetime | None = None
    ) -> Certificate:
        """A certificate for this key, put on ``entry``; until ``ends``, else for the entry's days or the CA's end."""
        life = timedelta(days=entry.days)
        times = now - min(BACKDATED, life / 10), ends or min(now + life, self.certificate.not_valid_after_utc)
        following = certified(key, name, entry.role, entry.hosts, times, (self.key, self.certificate))
        good = [(sha256, end) for sha256, end in entry.certificates.items() if end > now][1 - MOST_CERTIFICATES :]
        entry.certificates = {**dict(good), fingerprint(following): following.not_valid_after_utc}
        entry.key = key_sha256(key)
        return following


def ca_folder() -> Path:
    return fleet_home() / "ca"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other command and no ``ca serve`` changes the CA meanwhile."""
    above = ca_folder().parent
    above.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(above):
        yield


def open_ca(*, now: datetime | None = None) -> Authority:
    """This user's CA. FleetError when there is none, its files do not belong together, or it is past its end."""

    need_cryptography()
    folder = ca_folder()
    if not folder.exists():
        raise FleetError(f"there is no fleet CA in {folder}", hint="edgevit fleet ca init, on one machine of the fleet")
    try:
        certificate = read_certificate(folder / CA_CERTIFICATE)
        key = read_key(folder / CA_KEY)
    except (UsageError, ValueError, TypeError) as exc:
        raise FleetError(
            f"{folder} is not a CA folder: {exc}", hint="restore it, or edgevit fleet ca init --force"
        ) from exc
    if key.public_key() != certificate.public_key():
        raise FleetError(f"{folder} is not a CA folder: {CA_KEY} is not of {CA_CERTIFICATE}", hint="restore it")
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    check_times(f"the fleet's CA in {folder}", begins, ends, "edgevit fleet ca rotate", now)
    return Authority(folder, key, certificate)


def replace_ca(issued: Issued, days: float, now: datetime) -> datetime:
    """Write a CA folder in place of the one that is there; its end."""
    if not 1 <= days <= MOST_CA_DAYS:
        raise UsageError(f"a CA cannot live for {days:g} days", hint=f"1 to {MOST_CA_DAYS}")
    key = new_key()
    certificate = ca_certificate(key, now - BACKDATED, now + timedelta(days=days))
    with staged(ca_folder()) as scratch:
        scratch.chmod(0o700)
        write_file(scratch / CA_KEY, key_bytes(key), private=True)
        write_file(scratch / CA_CERTIFICATE, pem(certificate))
        Authority(scratch, key, certificate).write(issued)
        publish(scratch, ca_folder())
    return certificate.not_valid_after_utc


def renewed(
    certificate: bytes, request: bytes, *, signed: bytes, proof: bytes, now: datetime | None = None
) -> tuple[str, Certificate]:
    """The name, and the next certificate, of the holder of ``certificate`` (DER); ``request`` is PKCS #10 (DER).

    ``proof`` is the signature (ECDSA, SHA-256) of ``signed`` with the certificate's key. The next certificate is for
    the name, role and hosts on the record. FleetError says why there is none. The key of the newest certificate gets
    that certificate's remaining time once more, since an answer may have been lost.
    """
    now = now or utc_now()
    with alone():
        authority = open_ca(now=now)
        issued = authority.issued()
        name, entry = _holder(authority, issued, certificate, signed, proof, now)
        key = requested_key(request, name, entry.role)
        life = timedelta(days=entry.days)
        again = entry.ends is not None and entry.key == key_sha256(key)
        if entry.ends is not None and not again and now < entry.ends - (1 - NOT_BEFORE) * life:
            raise FleetError(f"{name} has a newer certificate, until {shown(entry.ends)}: it is too early for another")
        following = authority.certify(name, entry, key, now, entry.ends if again else None)
        authority.write(issued)
    return name, following


def _holder(
    authority: Authority, issued: Issued, certificate: bytes, signed: bytes, proof: bytes, now: datetime
) -> tuple[str, Entry]:
    """Whose certificate it is. Nothing of it is parsed before it is known to be one of ours."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    sha256 = hashlib.sha256(certificate).hexdigest()
    found = [(name, entry) for name, entry in issued.nodes.items() if sha256 in entry.certificates]
    if not found:
        raise FleetError(
            "this certificate is not on the CA's record: of another CA, replaced, or from before a rotation"
        )
    name, entry = found[0]
    current = x509.load_der_x509_certificate(certificate)
    key = current.public_key()
    try:
        current.verify_directly_issued_by(authority.certificate)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("another kind of key")
        key.verify(proof, signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise FleetError(f"the request was not made with {name}'s key") from exc
    if entry.revoked is not None:
        raise FleetError(f"{name} was revoked on {shown(entry.revoked)}")
    check_times(f"{name}'s certificate", current.not_valid_before_utc, current.not_valid_after_utc, "enroll again", now)
    return name, entry
