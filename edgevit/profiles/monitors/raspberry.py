"""Raspberry Pi: the firmware's own word on under-voltage, capped clocks and temperature.

The kernel's file is preferred; where it is absent ``vcgencmd get_throttled`` is run, at most twice a second.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from edgevit.profiles.environment import read
from edgevit.profiles.monitors.base import Doubt, Reading, Series, throttled

FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
NOW = {0: "under-voltage", 1: "a capped clock", 2: "throttling", 3: "the soft temperature limit"}
SINCE_BOOT = 16  # bits 16 to 19 say that 0 to 3 have occurred since boot
POWER = "use a stronger power supply and cable, and run again"


class Raspberry:
    """The bits of ``get_throttled``."""

    name: ClassVar[str] = "Raspberry Pi firmware"
    period_s: ClassVar[float] = 0.5

    def __init__(self, root: Path = Path("/"), vcgencmd: str | None = None) -> None:
        self.file, self.vcgencmd = root / FILE, vcgencmd or shutil.which("vcgencmd")

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls(root) if "Raspberry Pi" in (read(root / "proc/device-tree/model") or "") else None

    def read(self) -> Reading | None:
        bits = parse(read(self.file)) if self.file.exists() else parse(_ask(self.vcgencmd))
        return None if bits is None else {"bits": float(bits)}

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        """What any reading shows as active, and what occurred for the first time since boot between two readings."""
        if not series:
            return []
        seen = [int(reading["bits"]) for reading in series]
        found = []
        for bit, cause in NOW.items():
            new = all(word & 1 << bit + SINCE_BOOT for word in (seen[-1], ~seen[0]))
            if new or any(word & 1 << bit for word in seen):
                advice = (POWER,) if bit == 0 else ()
                found.append(throttled(f"the Raspberry Pi's firmware reports {cause}", *advice))
        return found


def parse(text: str | None) -> int | None:
    """The bits from the kernel's file ("50005", hexadecimal) or vcgencmd ("throttled=0x50005"); None for all else."""
    try:
        return int((text or "").strip().removeprefix("throttled="), 16)
    except ValueError:
        return None


def _ask(vcgencmd: str | None) -> str | None:
    if vcgencmd is None:
        return None
    try:
        answer = subprocess.run([vcgencmd, "get_throttled"], capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout
