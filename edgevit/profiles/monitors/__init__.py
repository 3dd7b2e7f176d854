"""What else happens on the machine while latency is measured.

One file for each kind of machine, one class for each kind of counters. A further one is a class with the methods of
``base.Monitor``, given to ``Watch`` and to ``verdict.judge``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgevit.profiles.monitors.base import PERIOD_S, Doubt, Monitor, Reading, Series, Watch
from edgevit.profiles.monitors.linux import CpuTime, Frequency, Pressure, Quota, Thermal, others_share
from edgevit.profiles.monitors.macos import MacPower
from edgevit.profiles.monitors.nvml import Nvml
from edgevit.profiles.monitors.raspberry import Raspberry
from edgevit.profiles.monitors.tegra import Tegra

__all__ = [
    "MONITORS",
    "PERIOD_S",
    "CpuTime",
    "Doubt",
    "Frequency",
    "MacPower",
    "Monitor",
    "Nvml",
    "Pressure",
    "Quota",
    "Raspberry",
    "Reading",
    "Series",
    "Tegra",
    "Thermal",
    "Watch",
    "others_share",
    "standard_monitors",
]

LINUX: tuple[type[Monitor], ...] = (Pressure, Quota, Frequency, Thermal, Raspberry, Tegra)
MONITORS: tuple[type[Monitor], ...] = (CpuTime, *LINUX, MacPower, Nvml)


def standard_monitors(root: Path = Path("/"), *, gpu: bool = False, system: str = sys.platform) -> list[Monitor]:
    """The monitors that apply to this machine. ``gpu``: the run uses one, so that its clocks count too.

    Load of other processes is always listed: where it cannot be read, it is unmonitored.
    """
    kinds = {"linux": LINUX, "darwin": (MacPower,)}.get(system, ())
    chosen = (CpuTime, *kinds, *((Nvml,) if gpu else ()))
    return [monitor for kind in chosen if (monitor := kind.here(root)) is not None]
