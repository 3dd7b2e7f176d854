"""What else happens on the machine while latency is measured. Each monitor is one small class; what cannot be read here
is listed as unmonitored, never taken for clean."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Protocol

from edgevit.profiles.environment import read

PERIOD_S = 0.4  # 2.5 Hz: at least the 2 Hz that PEERS.md asks for
Reading = dict[str, float]


class Monitor(Protocol):
    """Reads counters of the system. ``read`` returns None where they cannot be read."""

    name: str

    def read(self) -> Reading | None: ...


class CpuTime:
    """Seconds of CPU time since boot: of everybody, of this process, and stolen by the hypervisor."""

    name = "load of other processes"

    def __init__(self, root: Path = Path("/"), own: Callable[[], float] | None = None, hz: float | None = None) -> None:
        self.stat, self.own = root / "proc/stat", own or _own_cpu_seconds
        self.hz = hz or (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)

    def read(self) -> Reading | None:
        text = read(self.stat)
        if text is None or not text.startswith("cpu "):
            return None
        # user nice system idle iowait irq softirq steal …; guest time is part of user already
        ticks = [int(value) for value in text.splitlines()[0].split()[1:9]]
        ticks += [0] * (8 - len(ticks))
        busy = sum(ticks[index] for index in (0, 1, 2, 5, 6)) / self.hz
        return {"busy_s": busy, "steal_s": ticks[7] / self.hz, "own_s": self.own()}


def _own_cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


class Frequency:
    """Mean current clock of the cores in MHz, and the cap the system puts on it."""

    name = "cpu frequency"

    def __init__(self, root: Path = Path("/")) -> None:
        self.folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))

    def read(self) -> Reading | None:
        now = _mean_khz(self.folders, "scaling_cur_freq")
        cap = _mean_khz(self.folders, "scaling_max_freq")
        return None if now is None or cap is None else {"mhz": now / 1e3, "cap_mhz": cap / 1e3}


def _mean_khz(folders: Sequence[Path], name: str) -> float | None:
    values = [int(text) for folder in folders if (text := read(folder / name)) and text.isdigit()]
    return sum(values) / len(values) if values else None


class Thermal:
    """How far the hottest zone is over its own throttling trip point, in °C, and the CPU's throttle counter."""

    name = "temperature"

    def __init__(self, root: Path = Path("/")) -> None:
        self.zones = [(zone, _trip_point(zone)) for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))]
        self.counters = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))

    def read(self) -> Reading | None:
        over = [
            int(text) / 1e3 - trip
            for zone, trip in self.zones
            if trip is not None and (text := read(zone / "temp")) and re.fullmatch(r"-?\d+", text)
        ]
        counts = [int(text) for path in self.counters if (text := read(path)) and text.isdigit()]
        found = {"over_c": max(over)} if over else {}
        return found | ({"throttle_events": float(sum(counts))} if counts else {}) or None


def _trip_point(zone: Path) -> float | None:
    """The lowest temperature in °C at which the zone slows the processor down, or None."""
    trips = []
    for kind in zone.glob("trip_point_*_type"):
        text = read(kind.with_name(kind.name.replace("_type", "_temp")))
        if read(kind) in ("passive", "hot", "critical") and text and text.isdigit() and int(text) > 0:
            trips.append(int(text) / 1e3)
    return min(trips, default=None)


def standard_monitors(root: Path = Path("/")) -> list[Monitor]:
    return [CpuTime(root), Frequency(root), Thermal(root)]


class Watch:
    """Reads all monitors every ``PERIOD_S`` on its own thread while the block runs, and once at either end.

    series       monitor name -> readings in order, each with its time ``t_s``; a monitor that ever failed is left out
    unmonitored  names of the monitors that could not be read, at the start or later: half a record proves nothing
    """

    def __init__(self, monitors: Sequence[Monitor], tick: Callable[[], None] | None = None) -> None:
        self.monitors, self.tick = monitors, tick
        self.series: dict[str, list[Reading]] = {monitor.name: [] for monitor in monitors}
        self.unmonitored: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def sample(self) -> None:
        """One round of readings."""
        for monitor in self.monitors:
            if monitor.name in self.unmonitored:
                continue
            reading = monitor.read()
            if reading is None:
                self.unmonitored.append(monitor.name)
                del self.series[monitor.name]
            else:
                self.series[monitor.name].append({"t_s": time.monotonic(), **reading})
        if self.tick:
            self.tick()

    def _loop(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.sample()

    def __enter__(self) -> Watch:
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()


def others_share(series: Sequence[Reading], cores: int) -> tuple[float, float] | None:
    """Cores' worth of CPU taken by other processes, and the hypervisor's stolen share of ``cores``, over the run."""
    if len(series) < 2 or series[-1]["t_s"] <= series[0]["t_s"]:
        return None
    first, last = series[0], series[-1]
    span = last["t_s"] - first["t_s"]
    others = (last["busy_s"] - first["busy_s"]) - (last["own_s"] - first["own_s"])
    return max(0.0, others / span), max(0.0, (last["steal_s"] - first["steal_s"]) / span / cores)


def throttle_evidence(frequency: Sequence[Reading], thermal: Sequence[Reading]) -> list[str]:
    """Sentences that prove throttling: a lowered cap, clocks that fell, a trip point passed, the CPU's own counter."""
    found = []
    if len(frequency) >= 2:
        caps = [reading["cap_mhz"] for reading in frequency]
        if min(caps) < 0.99 * caps[0]:
            found.append(f"the system lowered the clock limit from {caps[0]:.0f} to {min(caps):.0f} MHz")
    if len(frequency) >= 6:
        third = len(frequency) // 3
        early, late = (median(r["mhz"] for r in part) for part in (frequency[:third], frequency[-third:]))
        if late < 0.9 * early:
            found.append(f"clocks fell from {early:.0f} to {late:.0f} MHz during the run")
    over = [reading["over_c"] for reading in thermal if "over_c" in reading]
    if over and max(over) >= 0:
        found.append(f"a thermal zone was {max(over):.0f} °C past its throttling point")
    counts = [reading["throttle_events"] for reading in thermal if "throttle_events" in reading]
    if counts and counts[-1] > counts[0]:
        found.append(f"the processor counted {counts[-1] - counts[0]:.0f} thermal throttle events")
    return found
