"""X.509 as the fleet uses it: keys, certificates and requests, without folders or records.

Keys are ECDSA P-256. A certificate's subject is its role (CN), its first alternative name the name of the node.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import FleetError, UsageError
from edgevit.foreign import read_bounded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate, CertificateBuilder, GeneralName, KeyUsage, Name

_DNS_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


def ca_certificate(key: EllipticCurvePrivateKey, begins: datetime, ends: datetime) -> Certificate:
    """Self-signed, under a name of its own, so that no two are mistaken for each other."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"edgevit fleet CA {secrets.token_hex(4)}")])
    builder = _builder(name, name, key.public_key(), begins, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_usage(sign=False), critical=True).sign(key, hashes.SHA256())


def certified(
    key: EllipticCurvePublicKey,
    name: str,
    role: str,
    hosts: Sequence[str],
    times: tuple[datetime, datetime],
    issuer: tuple[EllipticCurvePrivateKey, Certificate],
) -> Certificate:
    """The certificate of ``key`` as server and client; ``times`` are when it begins and ends."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    signing_key, authority = issuer
    return (
        _builder(_subject(role), authority.subject, key, *times)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(addresses(name, hosts)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .sign(signing_key, hashes.SHA256())
    )


def request(key: EllipticCurvePrivateKey, name: str, role: str) -> bytes:
    """A PKCS #10 request (DER) for this key's certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(role))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def requested_key(request: bytes, name: str, role: str) -> EllipticCurvePublicKey:
    """The key to be certified; FleetError for another name, role or kind of key, or without proof that it is had."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        asked = x509.load_der_x509_csr(request)
        key = asked.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("not a P-256 key")
        if not asked.is_signature_valid:
            raise ValueError("not signed with its own key")
        wanted = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if asked.subject != _subject(role) or wanted.get_values_for_type(x509.DNSName) != [name]:
            raise FleetError(f"{name} ({role}) asks for another name or role")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as exc:
        raise FleetError(f"{name}'s request is not one: {exc}") from exc
    return key


def addresses(name: str, hosts: Sequence[str]) -> list[GeneralName]:
    """What a certificate is good for: its name, that name in the local network (mDNS), this machine, and ``hosts``.

    UsageError for what is neither a host name nor an address.
    """
    return [_address(one) for one in dict.fromkeys((name, f"{name}.local", "localhost", "127.0.0.1", "::1", *hosts))]


def fingerprint(certificate: Certificate) -> str:
    """SHA-256 of the certificate, in hex."""
    return hashlib.sha256(der(certificate)).hexdigest()


def key_sha256(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def der(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: EllipticCurvePrivateKey) -> bytes:
    """PEM, PKCS #8, not encrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


PEM_BYTES = 1 << 16


def read_certificate(path: Path) -> Certificate:
    """ValueError unless the file holds a certificate, UsageError where it is no file."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(read_bounded(path, PEM_BYTES, "a certificate"))


def read_key(path: Path) -> EllipticCurvePrivateKey:
    """ValueError unless the file holds an elliptic-curve key, UsageError where it is no file."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(read_bounded(path, PEM_BYTES, "a key"), None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds another kind of key")
    return key


def _builder(
    subject: Name, issuer: Name, key: EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign: bool) -> KeyUsage:
    """Of a certificate that signs what it says itself, or other certificates."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(role: str) -> Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, role)])


def _address(host: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        if len(host) > 253 or not _DNS_NAME.fullmatch(host):
            raise UsageError(
                f"{host!r} is neither an IP address nor a host name", hint="for example 192.168.1.5"
            ) from None
        return x509.DNSName(host)
