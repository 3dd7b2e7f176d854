"""What one process with an identity seals and opens, signs and checks. Pure: nothing here talks to anyone.

Two processes share a key without a word: each has its own private key and the other's certificate (ECDH on P-256,
HKDF). It is another one for questions and for answers, and for each direction. ChaCha20-Poly1305 is as quick on
processors without instructions for AES as on others.

The bytes of a question are sealed once, however many nodes are asked with them, under a key of their own; that key
goes, with what is said beside the bytes, sealed for one node. What is sealed is bound to the key that it was asked
under, and an answer to its question.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from edgevit.errors import FleetError
from edgevit.fleet.bus.link import IDENTITY_FILES
from edgevit.fleet.bus.messages import BadMessage
from edgevit.fleet.bus.papers import Papers, read_papers

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

NONCE, KEY, TAG = 12, 32, 16  # bytes
KEPT = 4096  # certificates, and keys shared with their owners, that are remembered
_DOMAIN = b"edgevit fleet, seal version 1\n"
_ONCE = bytes(NONCE)  # of a key that seals one thing
T = TypeVar("T")


class Seals:
    """One identity's. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """FleetError where ``folder`` is no identity."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

        key, cert, ca = (folder / name for name in IDENTITY_FILES)
        try:
            own = x509.load_pem_x509_certificate(cert.read_bytes()).public_bytes(Encoding.DER)
            private = load_pem_private_key(key.read_bytes(), None)
            self._authority = x509.load_pem_x509_certificate(ca.read_bytes())
            self.own = read_papers(own, self._authority)
            if not isinstance(private, EllipticCurvePrivateKey):
                raise ValueError("another kind of key")
        except (OSError, ValueError, TypeError, BadMessage) as exc:
            raise FleetError(f"{folder} is no identity of this fleet: {exc}", hint="enroll it again") from exc
        self._private = private
        self._papers: Newest[Papers] = Newest(KEPT)
        self._shared: Newest[ChaCha20Poly1305] = Newest(KEPT)

    def papers(self, der: bytes) -> Papers:
        """Whose certificate it is; BadMessage for one that does not count here."""
        found = self._papers.get(der, lambda: read_papers(der, self._authority))
        if not found.good():
            raise BadMessage("a certificate that has ended")
        return found

    def sign(self, content: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return self._private.sign(_DOMAIN + content, ec.ECDSA(hashes.SHA256()))

    def for_questions(self, other: Papers, *, asking: bool) -> ChaCha20Poly1305:
        """What seals questions between this process, which asks or is asked, and another."""
        return self._between(b"question", other, asking)

    def for_answers(self, other: Papers, *, asking: bool) -> ChaCha20Poly1305:
        return self._between(b"answer", other, asking)

    def _between(self, what: bytes, other: Papers, asking: bool) -> ChaCha20Poly1305:
        ends = (self.own.mark, other.mark) if asking else (other.mark, self.own.mark)
        return self._shared.get(b"".join((what, *ends)), lambda: self._derived(what, ends, other))

    def _derived(self, what: bytes, ends: tuple[bytes, bytes], other: Papers) -> ChaCha20Poly1305:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        shared = self._private.exchange(ec.ECDH(), other.key)
        info = b"".join((_DOMAIN, what, *ends))
        return ChaCha20Poly1305(HKDF(hashes.SHA256(), KEY, None, info).derive(shared))


class Newest(Generic[T]):
    """At most ``most`` things by key, those that were used last."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._kept: OrderedDict[bytes, T] = OrderedDict()

    def get(self, key: bytes, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made


def check_signed(papers: Papers, content: bytes, signature: bytes) -> None:
    """BadMessage unless the owner of these papers signed ``content``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        papers.key.verify(signature, _DOMAIN + content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as exc:
        raise BadMessage(f"what {papers.name} is said to have signed is not") from exc


def sealed_once(data: bytes) -> tuple[bytes, bytes]:
    """A new key, and ``data`` sealed under it, which nothing else ever is."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    key = os.urandom(KEY)
    return key, ChaCha20Poly1305(key).encrypt(_ONCE, data, None)


def opened_once(key: bytes, sealed: bytes) -> bytes:
    """BadMessage where it was altered."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return opened(ChaCha20Poly1305(key), _ONCE, sealed, None)


def opened(seal: ChaCha20Poly1305, nonce: bytes, sealed: bytes, bound: bytes | None) -> bytes:
    """BadMessage where it was altered, or is bound to something else."""
    from cryptography.exceptions import InvalidTag

    try:
        return seal.decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError) as exc:
        raise BadMessage("what was sealed does not open") from exc
