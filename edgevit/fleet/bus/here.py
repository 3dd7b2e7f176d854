"""How the processes of one user on one machine find each other without a flag and without multicast.

Each writes ``$EDGEVIT_HOME/fleet/here/<name>-<pid>-<port>.json`` (pid, host, endpoint) and then connects to all that it
finds there. As everyone writes before it reads, of any two the later one sees the earlier one, whoever that is: nodes
started at the same moment meet, and so does a client that was there before the first node. Its writer keeps an entry
locked, which ends with the process however that dies; entries without a lock are deleted by whoever finds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgevit.errors import FleetError
from edgevit.home import fleet_home

if sys.platform != "win32":  # where an open file cannot be deleted, which serves as the lock
    import fcntl

MAX_ENTRY = 4096  # bytes


def folder() -> Path:
    """``$EDGEVIT_HOME/fleet/here``. Not created here."""
    return fleet_home() / "here"


class Entry:
    """This process's own entry, with a port that nobody else takes until ``listening`` is called."""

    def __init__(self, name: str) -> None:
        self._port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        port = self._port.getsockname()[1]
        self.endpoint = f"tcp/127.0.0.1:{port}"
        self._path = folder() / f"{name}-{os.getpid()}-{port}.json"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._write({"pid": os.getpid(), "host": socket.gethostname(), "endpoint": self.endpoint})
        except OSError as exc:
            self._port.close()
            raise FleetError(f"{folder()} cannot be written: {exc}", hint="set EDGEVIT_HOME to another folder") from exc

    def _write(self, record: dict[str, str | int]) -> IO[str]:
        """The open, locked file. It gets its name only when it is whole and locked."""
        scratch = self._path.with_suffix(".part")
        file = scratch.open("w")
        json.dump(record, file)
        file.flush()
        if sys.platform == "win32":
            file.close()
            scratch.replace(self._path)
            return self._path.open()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch.replace(self._path)
        return file

    def listening(self) -> None:
        """The bus listens on the port now."""
        self._port.close()

    def close(self) -> None:
        self._port.close()
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self._file.close()
            self._path.unlink()
        self._file.close()

    def others(self) -> tuple[str, ...]:
        """The endpoints of everyone else who is here."""
        return tuple(sorted(_living(self._path)))


def _living(own: Path) -> Iterator[str]:
    for path in own.parent.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if path == own or _deserted(path):
                continue
            with path.open() as file:
                record = json.loads(file.read(MAX_ENTRY))
            if record["host"] == socket.gethostname() and str(record["endpoint"]).startswith("tcp/127.0.0.1:"):
                yield str(record["endpoint"])


def _deserted(path: Path) -> bool:
    """Whether nobody holds this entry any more; then it is deleted."""
    if sys.platform == "win32":
        try:
            path.unlink()
        except PermissionError:
            return False
        return True
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
        return True
