"""macOS: thermal pressure, and the limits that ``pmset -g therm`` lists.

Apple silicon never lists CPU limits in pmset, so its silence proves nothing there: thermal pressure, which macOS
publishes as the notification below, is what counts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from edgevit.profiles.monitors.base import Doubt, Reading, Series, throttled

PMSET = ("/usr/bin/pmset", "-g", "therm")
PRESSURE = ("/usr/bin/notifyutil", "-g", "com.apple.system.thermalpressurelevel")
LEVELS = ("nominal", "moderate", "heavy", "trapping", "sleeping")
Ask = Callable[[Sequence[str]], str | None]


def _ask(command: Sequence[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


class MacPower:
    """Thermal pressure (0 is nominal), CPU speed and scheduler limits in %."""

    name: ClassVar[str] = "macOS thermal state"
    period_s: ClassVar[float] = 0.5

    def __init__(self, ask: Ask = _ask) -> None:
        self.ask = ask

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls()

    def read(self) -> Reading | None:
        return parse_limits(self.ask(PMSET)) | parse_pressure(self.ask(PRESSURE)) or None

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        found = []
        if worst := int(max((reading.get("pressure", 0) for reading in series), default=0)):
            found.append(throttled(f"macOS reports {LEVELS[min(worst, len(LEVELS) - 1)]} thermal pressure"))
        for key, what in (("speed_limit", "CPU speed"), ("scheduler_limit", "CPU time")):
            limit = min((reading.get(key, 100) for reading in series), default=100)
            if limit < 100:
                found.append(throttled(f"macOS limited {what} to {limit:.0f} %"))
        return found


def parse_limits(text: str | None) -> Reading:
    """The limits in % of ``pmset -g therm``; empty where none is listed."""
    found = re.findall(r"CPU_(Speed|Scheduler)_Limit\s*=\s*(\d+)", text or "")
    return {f"{name.lower()}_limit": float(value) for name, value in found}


def parse_pressure(text: str | None) -> Reading:
    """The level that ``notifyutil -g`` prints after the notification's name."""
    found = re.search(r"thermalpressurelevel\s+(\d+)", text or "")
    return {"pressure": float(found[1])} if found else {}
