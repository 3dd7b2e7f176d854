"""NVIDIA Jetson (Tegra): throttle alerts and over-current events from sysfs.

The thermal framework lists its alerts as cooling devices ("cpu-throttle-alert", "gpu-throttle-alert", …) whose state is
above 0 while they slow the chip; the over-current driver counts events in ``oc*_event_cnt``. Clocks that fall because
there is nothing to do are not throttling and are not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from edgevit.profiles.environment import read
from edgevit.profiles.monitors.base import Doubt, Reading, Series, throttled


def is_tegra(root: Path) -> bool:
    return "nvidia,tegra" in (read(root / "proc/device-tree/compatible") or "")


class Tegra:
    """Throttle alerts that are active now, and over-current events since boot."""

    name: ClassVar[str] = "Tegra throttling"
    period_s: ClassVar[float] = 0.0

    def __init__(self, root: Path = Path("/")) -> None:
        devices = sorted((root / "sys/class/thermal").glob("cooling_device*"))
        self.alerts = [device / "cur_state" for device in devices if (read(device / "type") or "").endswith("-alert")]
        self.counters = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls(root) if is_tegra(root) else None

    def read(self) -> Reading | None:
        alerts, events = ([read(path) for path in paths] for paths in (self.alerts, self.counters))
        if not alerts + events or None in alerts + events:
            return None
        active = sum(int(text or 0) > 0 for text in alerts)
        return {"alerts": float(active), "overcurrent_events": float(sum(int(text or 0) for text in events))}

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        found = []
        if any(reading["alerts"] > 0 for reading in series):
            found.append(throttled("a thermal throttle alert of the Jetson was active"))
        if series and (events := series[-1]["overcurrent_events"] - series[0]["overcurrent_events"]) > 0:
            advice = "use a stronger power supply or a lower power mode (nvpmodel), and run again"
            found.append(throttled(f"the Jetson throttled {events:.0f} times for over-current", advice))
        return found
