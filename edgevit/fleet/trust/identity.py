"""Who a process is in a fleet: one folder, written by the CA at enrolment and copied to the device.

node.json      name and role
cert.pem       its certificate: subject CN = role, which routers and nodes grant rights to; SAN = name and addresses
key.pem        the private key (ECDSA P-256), readable by nobody else
ca.pem         the fleet's CA: whoever shows a certificate of another one is no part of the fleet
trusted.json   operators' public keys: whose orders are taken (signatures.py)
next/          only while a renewal is under way: the next key, and its certificate once the CA has answered
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit import registry
from edgevit.artifact.files import write_durably
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.bus.papers import certified_as, check_role
from edgevit.fleet.trust.certificates import key_bytes, new_key, read_certificate, read_key
from edgevit.foreign import read_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

RECORD, CERTIFICATE, KEY, CA, NEXT = "node.json", "cert.pem", "key.pem", "ca.pem", "next"
RENEWED_AT = 2 / 3  # of a certificate's life


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity folder as it was when it was opened. Times are UTC."""

    folder: Path
    name: str
    role: str
    certificate: Certificate

    @property
    def begins(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @property
    def ends(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @property
    def renewed_at(self) -> datetime:
        """When its next certificate is asked for."""
        return self.begins + RENEWED_AT * (self.ends - self.begins)

    def left(self, now: datetime | None = None) -> timedelta:
        return self.ends - (now or utc_now())


def open_identity(folder: Path, *, role: str | None = None, now: datetime | None = None) -> Identity:
    """The identity in ``folder``; a renewal that was interrupted after the CA's answer is finished first.

    FleetError when the folder is not one, its parts do not belong together, the certificate is not of its CA, has
    ended, or has not begun (then a clock is wrong), or it is for another ``role`` (an operator may be a client, too).
    MissingDependency without cryptography.
    """
    need_cryptography()
    with locked(folder):
        finish_renewal(folder)
        identity = _read(folder)
    check_times(f"the certificate in {folder}", identity.begins, identity.ends, _again(identity.name), now)
    if role is not None:
        check_role(folder, identity.role, role)
    return identity


def _read(folder: Path) -> Identity:
    from cryptography.exceptions import InvalidSignature

    try:
        record = read_json(folder / RECORD, "the record of an identity")
        name, role = str(record["name"]), str(record["role"])
        certificate, authority = read_certificate(folder / CERTIFICATE), read_certificate(folder / CA)
        key = read_key(folder / KEY)
    except (UsageError, ValueError, KeyError, TypeError) as exc:
        raise FleetError(f"{folder} is not an identity folder: {exc}", hint=_again("NAME")) from exc
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise FleetError(
            f"the certificate in {folder} is not of the CA beside it: the folder was put together from two",
            hint=_again(name),
        ) from exc
    if key.public_key() != certificate.public_key():
        raise FleetError(f"the key in {folder} does not fit the certificate beside it", hint=_again(name))
    if (name, role) != certified_as(certificate):
        raise FleetError(f"{RECORD} in {folder} does not fit the certificate beside it", hint=_again(name))
    return Identity(folder, name, role, certificate)


def check_times(what: str, begins: datetime, ends: datetime, hint: str, now: datetime | None = None) -> None:
    """FleetError unless now, by this machine's clock, is between the two."""
    now = now or utc_now()
    if now < begins:
        raise FleetError(
            f"{what} begins on {shown(begins)}, and this machine's clock says {shown(now)}",
            hint="set the clock (timedatectl set-ntp true)",
        )
    if now > ends:
        raise FleetError(f"{what} ended on {shown(ends)}; here it is {shown(now)}", hint=hint)


def write_identity(
    folder: Path, *, name: str, role: str, key: bytes, certificate: bytes, ca: bytes, trusted: dict[str, str]
) -> None:
    """Write the files of an identity into ``folder``, which becomes readable by nobody else."""
    from edgevit.fleet.trust.signatures import TRUSTED

    folder.chmod(0o700)
    write_file(folder / KEY, key, private=True)
    write_file(folder / CERTIFICATE, certificate)
    write_file(folder / CA, ca)
    write_file(folder / TRUSTED, json.dumps(trusted, indent=2).encode() + b"\n")
    write_file(folder / RECORD, json.dumps({"name": name, "role": role}, indent=2).encode() + b"\n")


def begin_renewal(folder: Path) -> EllipticCurvePrivateKey:
    """The key that the next certificate is asked for: the one of an attempt that got no answer, else a new one."""
    following = folder / NEXT
    following.mkdir(mode=0o700, exist_ok=True)
    if not (following / KEY).exists():
        write_file(following / KEY, key_bytes(new_key()), private=True)
    return read_key(following / KEY)


def finish_renewal(folder: Path) -> None:
    """Put the next key and certificate in place, if the CA has answered. Killed at any point, it is done by the next
    call: ``next`` is there until all of it is in place."""
    following, done = folder / NEXT, folder / f".{NEXT}-done"
    shutil.rmtree(done, ignore_errors=True)
    if not (following / CERTIFICATE).is_file():
        return
    write_file(folder / KEY, (following / KEY).read_bytes(), private=True)
    write_file(folder / CERTIFICATE, (following / CERTIFICATE).read_bytes())
    following.rename(done)
    shutil.rmtree(done)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process is in this block with the same folder."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes that renew one identity at the same moment may have to enroll again
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as exc:
        raise FleetError(f"{folder} cannot be opened: {exc.strerror}", hint="name another folder") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Atomically and durably; ``private``: at no time readable by others."""
    write_durably(path, content, mode=0o600 if private else 0o644)


def need_cryptography() -> None:
    registry.need("a fleet's certificates", ("cryptography",), "edgevit[fleet]")


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def shown(time: datetime) -> str:
    return time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _again(name: str) -> str:
    return f"enroll it again (edgevit enroll {name} --force, on the CA's machine), then copy the folder here"
