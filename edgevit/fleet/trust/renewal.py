"""Certificates renewed over the bus while they are still good, and the CA's side of it.

A process asks ``ca/renew`` at two thirds of its certificate's life for one of a new key. The request names that key
(PKCS #10), shows the present certificate, and is signed with its key; a nonce and the time make it good once. What the
CA checks is in authority.py.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgevit.errors import EdgeVitError, FleetError
from edgevit.fleet.bus.messages import BadMessage, Message, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Bus, gather
from edgevit.fleet.trust.authority import renewed
from edgevit.fleet.trust.certificates import der, fingerprint, key_sha256, pem, read_key, request
from edgevit.fleet.trust.identity import (
    CA,
    CERTIFICATE,
    KEY,
    NEXT,
    Identity,
    begin_renewal,
    finish_renewal,
    locked,
    open_identity,
    shown,
    utc_now,
    write_file,
)

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

log = logging.getLogger("edgevit.fleet")
MAX_REQUEST = 16 << 10  # bytes of a request or its answer
FRESH = timedelta(minutes=5)  # how far from the CA's clock a request's time may be
MOST_NONCES = 4096  # remembered for that long; more requests are "busy"
TIMEOUT_S = 5.0  # for the CA's answer
CLOSE_S = 1.0  # that a renewal under way is waited for
POLL_S = 60.0  # between two looks at the identity folder, which may have been replaced by hand
RETRIES = 20  # to get an answer, spread over what is left of a certificate
_DOMAIN = b"edgevit certificate renewal, version 1\n"

_Base64 = Annotated[str, Field(max_length=4096, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


class RenewalRequest(Message):
    """The payload of a question to ``ca/renew``. DER in base64."""

    certificate: _Base64
    request: _Base64
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    at: float = Field(description="Unix time, seconds")
    proof: _Base64 = Field(description="of all the other fields, with the certificate's key")

    def signed(self) -> bytes:
        fields = self.model_dump(mode="json", exclude={"proof"})
        return _DOMAIN + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


class Renewal(Message):
    """The answer: the next certificate, DER in base64."""

    certificate: _Base64


# --- who asks -----------------------------------------------------------------------------------------------------


def renewal_request(identity: Identity, *, now: datetime | None = None) -> RenewalRequest:
    """A request for the next certificate; its key is kept in the identity folder until there is an answer."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    with locked(identity.folder):
        following, current = begin_renewal(identity.folder), read_key(identity.folder / KEY)
    draft = RenewalRequest(
        certificate=_encoded(der(identity.certificate)),
        request=_encoded(request(following, identity.name, identity.role)),
        nonce=secrets.token_hex(16),
        at=(now or utc_now()).timestamp(),
        proof="AA==",
    )
    proof = current.sign(draft.signed(), ec.ECDSA(hashes.SHA256()))
    return draft.model_copy(update={"proof": _encoded(proof)})


def take_renewal(identity: Identity, renewal: Renewal) -> None:
    """Put the CA's answer in place of what the folder holds. FleetError unless it is this identity's next certificate:
    of the same CA, name and role, for the key that was asked for, and longer."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    folder = identity.folder
    with locked(folder):
        try:
            following = x509.load_der_x509_certificate(base64.b64decode(renewal.certificate))
            following.verify_directly_issued_by(x509.load_pem_x509_certificate((folder / CA).read_bytes()))
            wanted = key_sha256(read_key(folder / NEXT / KEY).public_key())
            fits = wanted == _key_of(following) and _says(following) == _says(identity.certificate)
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as exc:
            raise FleetError(f"the answer from ca/renew is not {identity.name}'s next certificate") from exc
        if not fits or following.not_valid_after_utc <= identity.ends:
            raise FleetError(f"the answer from ca/renew is not {identity.name}'s next certificate")
        write_file(folder / NEXT / CERTIFICATE, pem(following))
        finish_renewal(folder)


def renew(bus: Bus, names: Names, folder: Path) -> Identity:
    """Ask for the next certificate of the identity in ``folder`` and put it in place. FleetError says why not."""
    identity = open_identity(folder)
    found = gather(bus, names.ca("renew"), payload=renewal_request(identity).encode(), timeout_s=TIMEOUT_S)
    if not found.answers:
        raise FleetError("nobody answers ca/renew", hint="edgevit fleet ca serve, on the CA's machine")
    if not found.good:
        raise FleetError(f"the CA renews nothing: {found.refusals[0]}")
    take_renewal(identity, parse(Renewal, found.good[0].payload, MAX_REQUEST))
    return open_identity(folder)


class RenewalClient:
    """Keeps the identity in ``folder`` good, in a thread of its own.

    ``on_renewed`` is called in that thread whenever the folder holds another certificate than before, also when it was
    enrolled again and copied by hand: it opens a session with the new one, then closes the old. ``bus`` is asked for
    anew before each request. Failures are logged and tried again, more often as the end comes nearer.
    """

    def __init__(
        self,
        bus: Callable[[], Bus],
        names: Names,
        folder: Path,
        on_renewed: Callable[[Path], None],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._bus, self._names, self._folder, self._on_renewed = bus, names, folder, on_renewed
        self._poll_s = poll_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="renewal")
        self._in_use = fingerprint(open_identity(folder).certificate)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            try:
                pause = self._step()
            except EdgeVitError as exc:
                log.warning("%s%s", exc, f" ({exc.hint})" if exc.hint else "")
                pause = self._pause()
            except Exception:
                log.exception("renewing the certificate in %s", self._folder)
                pause = self._poll_s

    def _step(self) -> float:
        """Renew if it is time, tell if the certificate is another one; seconds until the next look."""
        identity = open_identity(self._folder)
        if utc_now() >= identity.renewed_at:
            identity = renew(self._bus(), self._names, self._folder)
        if (sha256 := fingerprint(identity.certificate)) != self._in_use:
            log.info("%s has a new certificate, until %s", identity.name, shown(identity.ends))
            self._on_renewed(self._folder)
            self._in_use = sha256
        return min(self._poll_s, max((identity.renewed_at - utc_now()).total_seconds(), 0.0))

    def _pause(self) -> float:
        """Until another attempt."""
        try:
            left = open_identity(self._folder).left().total_seconds()
        except EdgeVitError:
            return self._poll_s
        return min(self._poll_s, max(left / RETRIES, 1.0))


def _says(certificate: Certificate) -> tuple[object, object]:
    """Role and names of a certificate."""
    from cryptography import x509

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.subject, names


def _key_of(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    key = certificate.public_key()
    return key_sha256(key) if isinstance(key, EllipticCurvePublicKey) else ""


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- the CA -------------------------------------------------------------------------------------------------------


class Renewals:
    """Answers requests with this user's CA. One thread at a time."""

    def __init__(self) -> None:
        self._nonces: dict[str, float] = {}  # of requests that were answered -> their time

    def answer(self, data: bytes, *, now: datetime | None = None) -> tuple[str, Renewal, datetime]:
        """The name that is renewed, its next certificate and when that ends. BadMessage or FleetError, in words for
        who asked."""
        now = now or utc_now()
        asked = parse(RenewalRequest, data, MAX_REQUEST)
        if not abs(now.timestamp() - asked.at) <= FRESH.total_seconds():
            raise FleetError(f"the request is not of now, which is {shown(now)} for the CA: is a clock wrong?")
        self._forget(now)
        if asked.nonce in self._nonces:
            raise FleetError("this request was answered already")
        if len(self._nonces) >= MOST_NONCES:
            raise FleetError("busy")
        try:
            certificate, wanted, proof = map(_decoded, (asked.certificate, asked.request, asked.proof))
        except ValueError as exc:
            raise BadMessage("RenewalRequest: not base64") from exc
        name, following = renewed(certificate, wanted, signed=asked.signed(), proof=proof, now=now)
        self._nonces[asked.nonce] = asked.at
        return name, Renewal(certificate=_encoded(der(following))), following.not_valid_after_utc

    def _forget(self, now: datetime) -> None:
        oldest = (now - FRESH).timestamp()
        self._nonces = {nonce: at for nonce, at in self._nonces.items() if at >= oldest}


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
