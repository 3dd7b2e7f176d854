"""How the processes of one user on one machine find each other without a flag, and how others are kept out.

Each writes ``$EDGEVIT_HOME/fleet/here/<name>-<pid>-<number>.json`` (pid, host, endpoint) and then connects to all that
it finds there. As everyone writes before it reads, of any two the later one sees the earlier one, whoever that is:
nodes started at the same moment meet, and so does a client that was there before the first node. Its writer keeps an
entry locked, which ends with the process however that dies; entries without a lock are deleted by whoever finds them.

The endpoint is a socket in a folder that only this user (and root) can enter: no other user of the machine can connect
to it, or put one of their own in its place. Windows has no such sockets: there it is a port of the loopback interface,
where who connects has to know this user's secret (``own_secret``).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgevit.errors import FleetError
from edgevit.fleet.bus.own_secret import private_folder
from edgevit.home import fleet_home

if sys.platform != "win32":  # where an open file cannot be deleted, which serves as the lock
    import fcntl

MAX_ENTRY = 4096  # bytes
MOST_PATH = 96  # bytes of a socket's path; systems take 104 or 108
UNIX = "unixsock-stream/"
_SOCKET = "socket"  # in a folder of its own, where the usual one has too long a name
_numbers = itertools.count(1)


def folder() -> Path:
    """``$EDGEVIT_HOME/fleet/here``. Not created here."""
    return fleet_home() / "here"


class Entry:
    """This process's own entry, with an endpoint that nobody else takes until ``listening`` is called."""

    def __init__(self, name: str) -> None:
        self._path = folder() / f"{name}-{os.getpid()}-{next(_numbers)}.json"
        self._port: socket.socket | None = None
        try:
            private_folder(self._path.parent)
            self.endpoint = self._free_port() if sys.platform == "win32" else UNIX + str(_socket(self._path))
            self._file = self._write({"pid": os.getpid(), "host": socket.gethostname(), "endpoint": self.endpoint})
        except OSError as exc:
            self.listening()
            raise FleetError(f"{folder()} cannot be written: {exc}", hint="set EDGEVIT_HOME to another folder") from exc

    def _free_port(self) -> str:
        self._port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{self._port.getsockname()[1]}"

    def _write(self, record: dict[str, str | int]) -> IO[bytes]:
        """The open, locked file. It gets its name only when it is whole and locked. On a full disk it stays empty,
        which says that the socket is the one beside it."""
        scratch = self._path.with_suffix(".part")
        file = scratch.open("wb", buffering=0)
        said = json.dumps(record).encode()
        try:
            whole = file.write(said) == len(said)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            whole = False
        if not whole:
            if self.endpoint != _beside(self._path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.truncate(0)
        if sys.platform == "win32":
            file.close()
            scratch.replace(self._path)
            return self._path.open("rb")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch.replace(self._path)
        return file

    def listening(self) -> None:
        """The bus listens on the endpoint now."""
        if self._port is not None:
            self._port.close()

    def close(self) -> None:
        self.listening()
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self._file.close()
            self._path.unlink()
        _remove_socket(self.endpoint)
        self._file.close()

    def others(self) -> tuple[str, ...]:
        """The endpoints of everyone else who is here."""
        return tuple(sorted(_living(self._path)))


def _beside(entry: Path) -> str:
    """The endpoint that is a socket beside an entry."""
    return UNIX + str(entry.with_suffix(".sock").absolute())


def _socket(entry: Path) -> Path:
    """Where this process's socket goes: beside its entry, or in a folder of its own, readable by nobody else too."""
    path = Path(_beside(entry).removeprefix(UNIX))
    if len(os.fsencode(path)) > MOST_PATH:
        path = Path(tempfile.mkdtemp(prefix="edgevit-")) / _SOCKET
    return path


def _remove_socket(endpoint: str) -> None:
    """What a process that is gone left of its socket."""
    path = Path(endpoint.removeprefix(UNIX))
    if not endpoint.startswith(UNIX) or path.parent.stat().st_uid != os.geteuid():
        return
    if path.name == _SOCKET:
        shutil.rmtree(path.parent, ignore_errors=True)
    for left in (path, Path(f"{path}.lock")):
        left.unlink(missing_ok=True)


def _living(own: Path) -> Iterator[str]:
    for path in own.parent.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if path == own:
                continue
            with path.open() as file:
                text = file.read(MAX_ENTRY)
            record = json.loads(text) if text else {"host": socket.gethostname(), "endpoint": _beside(path)}
            endpoint = str(record["endpoint"])
            if record["host"] != socket.gethostname() or not _private(endpoint):
                continue
            if _deserted(path):
                _remove_socket(endpoint)
            else:
                yield endpoint


def _private(endpoint: str) -> bool:
    """Whether nobody but this user can be behind it."""
    if sys.platform == "win32":
        return endpoint.startswith("tcp/127.0.0.1:")
    if not endpoint.startswith(UNIX):
        return False
    where = Path(endpoint.removeprefix(UNIX)).parent.stat()
    return where.st_uid == os.geteuid() and not where.st_mode & 0o077


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
