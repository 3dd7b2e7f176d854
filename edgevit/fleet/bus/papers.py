"""Certificates as the bus sees them: who is at the other end, and in what role.

Their subject (CN) is the role, which Zenoh's rules go by; their first alternative name is the name, which ours do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import FleetError
from edgevit.fleet.bus.messages import BadMessage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.x509 import Certificate

MARK = 16  # bytes that stand for a certificate
SKEW = timedelta(minutes=5)  # between two machines' clocks
_ALSO = {"client": ("operator",)}  # whose identities are good for a role besides its own


@dataclass(frozen=True)
class Papers:
    """One process's certificate (DER), found to be of this fleet's CA."""

    name: str
    role: str
    key: EllipticCurvePublicKey
    der: bytes
    mark: bytes
    begins: datetime
    ends: datetime

    def good(self) -> bool:
        """Whether it is neither too early nor too late for it."""
        return self.begins - SKEW <= datetime.now(timezone.utc) <= self.ends

    def speaks_for(self, name: str | None) -> bool:
        """Whether it may answer as ``name``, or where no name is asked for: a node as itself, an operator as any."""
        return self.role == "operator" or (self.role == "node" and name in (None, self.name))


def read_papers(der: bytes, authority: Certificate) -> Papers:
    """BadMessage unless ``der`` is a certificate of that CA, which has neither ended nor not begun."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

    try:
        found = x509.load_der_x509_certificate(der)
        found.verify_directly_issued_by(authority)
        name, role = certified_as(found)
        key = found.public_key()
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise TypeError("another kind of key")
    except Exception as exc:  # a parser of X.509 raises anything for what a stranger sends
        raise BadMessage("a certificate that is not of this fleet's CA") from exc
    mark = sha256(der).digest()[:MARK]
    papers = Papers(name, role, key, der, mark, found.not_valid_before_utc, found.not_valid_after_utc)
    if not papers.good():
        raise BadMessage("a certificate that has ended, or not begun")
    return papers


def certified_as(certificate: Certificate) -> tuple[str, str]:
    """Name and role of one of our certificates; empty where it has none."""
    from cryptography import x509

    roles = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        name = others.get_values_for_type(x509.DNSName)[0]
    except (x509.ExtensionNotFound, IndexError):
        name = ""
    return name, str(roles[0].value) if roles else ""


def check_role(folder: Path, has: str, wanted: str) -> None:
    """FleetError where the identity in ``folder`` is not for this role (an operator may be a client, too)."""
    if has not in (wanted, *_ALSO.get(wanted, ())):
        raise FleetError(
            f"{folder} is the identity of {_a(has)}, and {_a(wanted)} is started",
            hint=f"edgevit enroll NAME --role {wanted} on the CA's machine makes one",
        )


def _a(role: str) -> str:
    return f"an {role}" if role[:1] in "aeiou" else f"a {role}"
