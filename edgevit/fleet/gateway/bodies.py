"""Bodies of requests, from whoever sends them: bounded in bytes, in time and in number, compressed ones too.

A body that arrives slowly must not keep others out. So it takes none of the places of requests that are being worked
on while it arrives, and when too many arrive at a time the slowest of the client that has most of them is ended.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field

from anyio import CancelScope, current_time
from starlette.requests import ClientDisconnect, Request

ARRIVING_BYTES = 4  # times the longest body: what all that arrive may hold together
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
CLOSE = {"Connection": "close"}
RAW = "send the image's own bytes, as curl --data-binary @photo.jpg does"


class Refused(Exception):
    """A request that ends here, with its status and sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Gone(Exception):
    """The client hung up before its body had arrived."""


@dataclass(eq=False)
class _Arriving:
    client: str
    began: float
    ends: CancelScope
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    crowded_out: bool = False


class Bodies:
    """Reads bodies of at most ``limit`` bytes, ``most`` at a time, each within ``seconds``.

    All on the event loop's thread, so no lock.
    """

    def __init__(self, limit: int, *, most: int, seconds: float) -> None:
        self.limit, self.most, self.seconds = limit, most, seconds
        self._arriving: list[_Arriving] = []

    async def read(self, request: Request) -> bytes:
        """The body as it was sent. Refused as soon as it is known to be too long, late or one too many; ``Gone``."""
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > self.limit:
            raise self._too_long()
        now = current_time()
        one = _Arriving(request.client.host if request.client else "", now, CancelScope(deadline=now + self.seconds))
        self._arriving.append(one)
        try:
            with one.ends:
                if len(self._arriving) > self.most:
                    self._make_room()
                await self._fill(one, request)
        except ClientDisconnect as exc:
            raise Gone from exc
        finally:
            self._arriving.remove(one)
        if one.ends.cancel_called:
            why = "others were waiting" if one.crowded_out else f"it did not arrive within {self.seconds:g} s"
            raise Refused(408, f"the body was given up: {why}", CLOSE)
        return b"".join(one.pieces)

    async def _fill(self, one: _Arriving, request: Request) -> None:
        async for piece in request.stream():
            one.size += len(piece)
            if one.size > self.limit:
                raise self._too_long()
            one.pieces.append(piece)
            while sum(each.size for each in self._arriving) > ARRIVING_BYTES * self.limit:
                self._make_room()

    def _too_long(self) -> Refused:
        return Refused(413, f"the body is too long; at most {self.limit} bytes are read", CLOSE)

    def _make_room(self) -> None:
        """End the oldest body of the client that has most of them."""
        crowd = Counter(one.client for one in self._arriving if not one.crowded_out)
        if not crowd:
            return
        most = max(crowd.values())
        slowest = min(
            (one for one in self._arriving if not one.crowded_out and crowd[one.client] == most),
            key=lambda one: one.began,
        )
        slowest.crowded_out = True
        slowest.pieces.clear()
        slowest.size = 0
        slowest.ends.cancel()


def inflated(body: bytes, encoding: str | None, limit: int) -> bytes:
    """``body`` with its Content-Encoding undone, never beyond ``limit`` bytes. Refused: 415, 413, 400."""
    names = [name.strip().lower() for name in (encoding or "").split(",") if name.strip().lower() != "identity"]
    names = [name for name in names if name]
    if not names:
        return body
    if len(names) > 1 or names[0] not in WINDOW_BITS:
        raise Refused(415, f"Content-Encoding {', '.join(names)} is not read; gzip and deflate are, one at a time")
    bits = WINDOW_BITS[names[0]]
    if names[0] == "deflate" and not _has_zlib_header(body):
        bits = -15  # raw deflate, as some clients call it
    inflater = zlib.decompressobj(bits)
    try:
        found = inflater.decompress(body, limit + 1)
    except zlib.error as exc:
        raise Refused(400, f"the body is not {names[0]}, as its Content-Encoding says") from exc
    if len(found) > limit:
        raise Refused(413, f"the body is too long; at most {limit} bytes are read, after {names[0]} is undone")
    if not inflater.eof:
        raise Refused(400, f"the {names[0]} body is not whole")
    return found


def _has_zlib_header(body: bytes) -> bool:
    """RFC 1950: method 8 in the low bits, and the first two bytes a multiple of 31."""
    return len(body) > 1 and body[0] & 15 == 8 and not int.from_bytes(body[:2], "big") % 31


def image_in(body: bytes, content_type: str | None) -> bytes:
    """The encoded image that a body is, or that is the one file of a form. Refused: 400, 415."""
    kind, _, rest = (content_type or "").partition(";")
    kind = kind.strip().lower()
    if kind == "multipart/form-data":
        return _only_file(body, rest)
    if kind in ("application/json", "application/x-www-form-urlencoded") and body[:1] in (b"{", b"[", b'"', b"i", b"d"):
        raise Refused(415, f"{kind} is not read as an image; {RAW}")
    return body


def _only_file(body: bytes, parameters: str) -> bytes:
    """The one file in a form (RFC 7578)."""
    boundary = ""
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "boundary":
            boundary = value.strip('"')
    if not 1 <= len(boundary) <= 70:
        raise Refused(400, "the form names no boundary between its parts")
    # a part ends with the line break before the next boundary; the last boundary has "--" after it
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1"), 20)
    if len(pieces) < 3 or len(pieces) > 20 or not pieces[-1].startswith(b"--"):
        raise Refused(400, "the form is not whole")
    found = []
    for piece in pieces[1:-1]:
        head, blank, content = piece.partition(b"\r\n\r\n")
        if blank and b"filename=" in head.lower():
            found.append(content)
    if len(found) != 1:
        raise Refused(400, f"the form holds {len(found)} files; exactly one image is read")
    return found[0]
