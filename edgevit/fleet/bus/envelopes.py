"""How questions and answers travel between processes with identities, byte by byte.

A question to one node is sealed for it: beside it go the asker's certificate, which tells the node whom it answers, and
the mark of the certificate that it is sealed for. Its answers are sealed for the asker, and bound to the question. A
question to whoever answers is open, with a nonce: its answers, and what is published, are signed, with the signer's
certificate beside them. A refusal is an answer too: who may not answer may not refuse either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from edgevit.fleet.bus.messages import BadMessage
from edgevit.fleet.bus.papers import MARK, Papers
from edgevit.fleet.bus.seals import KEY, NONCE, Seals, check_signed, opened
from edgevit.fleet.bus.transport import Answer, Meta, Payload

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

SEALED, OPEN = b"\x01", b"\x02"  # the first byte of what goes beside
OWNED = {"hello": 1, "infer": 3, "info": 1, "log": 1, "order": 1, "blob": 2, "beat": 1, "job": 1}  # -> the node's step
ANYONES = ("place",)  # which every node answers
_ROOT = 3  # steps before that


def whose(key: str) -> tuple[str | None, str | None]:
    """The kind of a key, if such are sealed or signed, and the one node that it is of, if it is of one."""
    kind, *steps = key.split("/")[_ROOT:] or [""]
    if kind in ANYONES:
        return kind, None
    if kind not in OWNED:
        return None, None
    name = steps[OWNED[kind] - 1] if len(steps) >= OWNED[kind] else "*"
    return kind, None if "*" in name else name


def may_answer(papers: Papers, key: str) -> bool:
    """Whether the owner of these papers may answer, or publish, under a key."""
    kind, name = whose(key)
    return papers.speaks_for(name) if kind in ANYONES or name is not None else False


# --- a question to one node ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A question as the node that it is for sees it. ``content`` opens the bytes beside it."""

    asker: Papers
    nonce: bytes
    content: bytes
    meta: Meta


def sealed_question(seals: Seals, to: Papers, key: str, content: bytes, meta: Meta) -> tuple[bytes, bytes]:
    """Its nonce, and what goes beside the bytes that are sealed under the key ``content``."""
    nonce = os.urandom(NONCE)
    box = seals.for_questions(to, asking=True).encrypt(nonce, content + meta, key.encode())
    own = seals.own.der
    return nonce, b"".join((SEALED, len(own).to_bytes(2, "big"), own, to.mark, nonce, box))


def opened_question(seals: Seals, key: str, beside: Meta) -> Opened | None:
    """None for one that is for another certificate; BadMessage for what is no sealed question."""
    own, rest = _piece(beside[1:], 2)
    to, nonce, box = rest[:MARK], rest[MARK : MARK + NONCE], rest[MARK + NONCE :]
    if to != seals.own.mark:
        return None
    asker = seals.papers(own)
    inside = opened(seals.for_questions(asker, asking=False), nonce, box, key.encode())
    return Opened(asker, nonce, inside[:KEY], inside[KEY:])


def sealed_answer(
    seal: ChaCha20Poly1305, nonce: bytes, key: str, refused: bool, payload: Payload, meta: Meta
) -> tuple[bytes, bytes]:
    """The bytes of an answer to the question of that nonce, and what goes beside them."""
    mine = os.urandom(NONCE)
    inside = b"".join((bytes([refused]), len(meta).to_bytes(4, "big"), meta, payload))
    return seal.encrypt(mine, inside, nonce + key.encode()), SEALED + mine


def opened_answer(seal: ChaCha20Poly1305, nonce: bytes, by: str, answer: Answer) -> Answer:
    """BadMessage for what is no answer to that question by whom it was asked."""
    if answer.refused is not None or answer.meta[:1] != SEALED:
        raise BadMessage("an answer that is not sealed")
    inside = opened(seal, answer.meta[1:], answer.payload, nonce + answer.key.encode())
    meta, payload = _piece(inside[1:], 4)
    return _answer(answer.key, inside[:1], payload, meta, by)


# --- a question to whoever answers, and what is published ---------------------------------------------------------


def open_question(meta: Meta) -> tuple[bytes, bytes]:
    """Its nonce, and what goes beside it."""
    nonce = os.urandom(NONCE)
    return nonce, OPEN + nonce + meta


def signed_answer(seals: Seals, nonce: bytes, key: str, refused: bool, payload: Payload, meta: Meta) -> bytes:
    """What goes beside an answer."""
    said = bytes([refused])
    signature = seals.sign(_digest((b"answer", nonce, key.encode(), said, meta, payload)))
    return b"".join((OPEN, *_with_length((seals.own.der, signature)), said, meta))


def checked_answer(seals: Seals, nonce: bytes, answer: Answer) -> tuple[Answer, Papers]:
    """The answer, and whose it is; BadMessage unless that one may give it, and signed it for this question."""
    if answer.refused is not None or answer.meta[:1] != OPEN:
        raise BadMessage("an answer that is not signed")
    own, rest = _piece(answer.meta[1:], 2)
    signature, rest = _piece(rest, 2)
    papers = seals.papers(own)
    if not may_answer(papers, answer.key):
        raise BadMessage(f"{papers.name} answers what is not its own")
    said, meta = rest[:1], rest[1:]
    check_signed(papers, _digest((b"answer", nonce, answer.key.encode(), said, meta, answer.payload)), signature)
    return _answer(answer.key, said, answer.payload, meta, papers.name), papers


def signed_message(seals: Seals, key: str, payload: Payload) -> bytes:
    signature = seals.sign(_digest((b"published", key.encode(), payload)))
    return b"".join((OPEN, *_with_length((seals.own.der, signature)), payload))


def checked_message(seals: Seals, key: str, message: bytes) -> bytes:
    """The payload; BadMessage unless it was signed by one who may publish under that key."""
    if message[:1] != OPEN:
        raise BadMessage("a message that is not signed")
    own, rest = _piece(message[1:], 2)
    signature, payload = _piece(rest, 2)
    papers = seals.papers(own)
    if not may_answer(papers, key):
        raise BadMessage(f"{papers.name} publishes what is not its own")
    check_signed(papers, _digest((b"published", key.encode(), payload)), signature)
    return payload


def _answer(key: str, said: bytes, payload: bytes, meta: bytes, by: str) -> Answer:
    if said == b"\x01":
        return Answer(key, b"", meta, payload.decode(errors="replace") or "refused", by)
    return Answer(key, payload, meta, None, by)


def _piece(data: bytes, width: int) -> tuple[bytes, bytes]:
    """A piece that begins with its length, and the rest; BadMessage where it is cut short."""
    end = width + int.from_bytes(data[:width], "big")
    if len(data) < max(end, width):
        raise BadMessage("a message that is cut short")
    return data[width:end], data[end:]


def _with_length(pieces: Iterable[bytes]) -> list[bytes]:
    return [len(piece).to_bytes(2, "big") + piece for piece in pieces]


def _digest(pieces: Iterable[Payload]) -> bytes:
    """Of these pieces, and of no others that follow each other in the same way."""
    return sha256(b"".join(sha256(piece).digest() for piece in pieces)).digest()
