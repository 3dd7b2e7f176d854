"""This user's secret, which processes on a loopback port without an identity show to each other.

    $EDGEVIT_HOME/fleet/secret    one line, ``user:password``, made on first use, readable by nobody else

It is Zenoh's dictionary of users. Who connects proves that it knows the password, without sending it; who listens
proves nothing, so that who names a port trusts whoever of this machine listens there.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from edgevit.artifact.files import write_private_once
from edgevit.errors import FleetError
from edgevit.home import fleet_home

USER = "edgevit"
MOST = 256  # bytes


def secret() -> tuple[Path, str]:
    """The file and the password. FleetError where it cannot be kept private."""
    path = fleet_home() / "secret"
    try:
        private_folder(path.parent)
        if not path.exists():
            write_private_once(path, f"{USER}:{secrets.token_hex(32)}")
        mode = path.stat()
        with path.open(encoding="ascii") as file:
            user, _, password = file.read(MOST).strip().partition(":")
    except (OSError, ValueError) as exc:
        raise FleetError(f"{path} cannot be used: {exc}", hint="set EDGEVIT_HOME to another folder") from exc
    foreign = os.name == "posix" and (mode.st_uid != os.geteuid() or stat.S_IMODE(mode.st_mode) & 0o077)
    if user != USER or len(password) < 32 or foreign:
        raise FleetError(
            f"{path} is not this user's secret, or others can read it", hint="remove it: a new one is made"
        )
    return path, password


def private_folder(folder: Path) -> None:
    """Make ``folder``, for nobody but this user; OSError where it is somebody else's."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.name == "posix":
        folder.chmod(0o700)  # PermissionError unless it is this user's
