"""Pictures as bytes, of kinds that Pillow reads and does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size: tuple[int, int], bits: int, colour: int, row: bytes, transparent: Sequence[int] = ()) -> bytes:
    """A PNG whose rows are all ``row``; ``colour`` 0 is grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""
    width, height = size
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    rows = zlib.compress((b"\0" + row) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(width: int, bits: int, data: bytes, *, kind: int = 1, white_is_zero: bool = False) -> bytes:
    """A grey TIFF of one row; ``kind`` 1 is of unsigned integers, 2 of signed ones, 3 of floats."""
    tags = {
        256: width, 257: 1, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8 + 2 + 12 * 10 + 4, 277: 1,
        278: 1, 279: len(data), 339: kind,
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, tags[tag]) for tag in sorted(tags))
    return b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + data
