"""The one folder that edgevit keeps for itself on a machine: keys, tuning records, caches."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``$EDGEVIT_HOME``, else ``~/.edgevit``. Not created here: who writes makes it."""
    given = os.environ.get("EDGEVIT_HOME")
    return Path(given).expanduser() if given else Path.home() / ".edgevit"


def fleet_home() -> Path:
    """``$EDGEVIT_HOME/fleet``: what the fleet keeps here."""
    return home() / "fleet"
