"""What every piece of a node stands on: its bus, the name that it has there, and its log."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from edgevit.errors import one_line
from edgevit.fleet.bus.logs import Log
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Bus

SENTENCE = 300  # characters of an error that are told
_DISK = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "its disk quota is used up",
    errno.EROFS: "its disk is read-only",
    errno.EIO: "its disk fails",
}


@dataclass(frozen=True, slots=True)
class Station:
    """One node on its bus."""

    bus: Bus
    names: Names
    node: str
    log: Log


def sentence(exc: Exception) -> str:
    """What a node says of an error, as one line: one of ours its sentence, one of the disk what is wrong with that."""
    if isinstance(exc, OSError) and exc.errno is not None:
        return _DISK.get(exc.errno) or f"{type(exc).__name__}: {os.strerror(exc.errno)}"
    return one_line(exc)[:SENTENCE]
