"""Monitors of a Linux kernel: CPU time of others, pressure, clocks and temperatures."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import ClassVar

from typing_extensions import Self

from edgevit import cgroups
from edgevit.cpu import allowed_cores, cpu_quota
from edgevit.profiles.environment import read
from edgevit.profiles.monitors.base import QUIET, Doubt, Reading, Series, throttled

MAX_OTHERS = 0.10  # of the usable cores, and
MAX_OTHERS_CORES = 0.5  # however many there are
MAX_DISTURBED = 0.05  # of the run's time with more than that
MAX_STEAL = 0.02
MAX_PRESSURE = 0.10  # of the time
MAX_STOPPED = 0.02  # of the periods: as many samples may be outliers


class CpuTime:
    """Seconds of CPU time since boot on the cores that this process may run on: of everybody, of this process, and
    stolen by the hypervisor. ``cores``: how many they are, where a quota leaves fewer usable ones."""

    name: ClassVar[str] = "load of other processes"
    period_s: ClassVar[float] = 0.0

    def __init__(
        self,
        root: Path = Path("/"),
        own: Callable[[], float] | None = None,
        hz: float | None = None,
        allowed: frozenset[int] | None = None,
    ) -> None:
        self.stat, self.own = root / "proc/stat", own or _own_cpu_seconds
        self.hz = hz or (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
        self.allowed = allowed_cores() if allowed is None else allowed
        self.shared = {} if cpu_quota(root) is None else {"cores": float(len(self.allowed))}

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls(root)

    def read(self) -> Reading | None:
        ticks = ticks_on(self.allowed, read(self.stat) or "")
        if ticks is None:
            return None
        busy = sum(ticks[index] for index in (0, 1, 2, 5, 6)) / self.hz
        return {"busy_s": busy, "steal_s": ticks[7] / self.hz, "own_s": self.own(), **self.shared}

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        """Others who took too much over the whole run, or much of it for a part that a longer run would dilute."""
        shares = others_share(series, cores)
        if shares is None:
            return []
        others, steal = shares
        cores = _watched(series, cores)
        limit = min(MAX_OTHERS * cores, MAX_OTHERS_CORES)
        disturbed = disturbed_share(series, limit)
        found = []
        if others > limit:
            found.append(Doubt("UNSTABLE", f"other processes took {others:.2f} of {cores} cores meanwhile", QUIET))
        elif disturbed > MAX_DISTURBED:
            evidence = f"other processes took over {limit:.2g} of {cores} cores in {disturbed:.0%} of the time"
            found.append(Doubt("UNSTABLE", evidence, QUIET))
        if steal > MAX_STEAL:
            evidence = f"the hypervisor took {steal:.1%} of the CPU time for other guests"
            found.append(Doubt("UNSTABLE", evidence, "run again at another hour or on another host"))
        return found


def ticks_on(allowed: frozenset[int], stat: str) -> list[int] | None:
    """Ticks since boot on the cores that are allowed, from /proc/stat: user nice system idle iowait irq softirq steal;
    guest time is part of user already. Of all cores where all are allowed, or a container numbers its own anew."""
    lines = {line.split()[0]: line.split()[1:9] for line in stat.splitlines() if line.startswith("cpu")}
    cores = {core: lines[f"cpu{core}"] for core in cores_of(stat)}
    ours = allowed & cores.keys()
    chosen = [cores[core] for core in ours] if ours and ours < cores.keys() else [lines.get("cpu", [])]
    if not all(chosen):
        return None
    return [sum(int(ticks[kind]) for ticks in chosen if kind < len(ticks)) for kind in range(8)]


def cores_of(stat: str) -> frozenset[int]:
    """Numbers of the cores that /proc/stat lists."""
    return frozenset(int(core) for core in re.findall(r"^cpu(\d+) ", stat, re.MULTILINE))


def _own_cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def others_share(series: Series, cores: int) -> tuple[float, float] | None:
    """Cores' worth of CPU taken by other processes, and the hypervisor's stolen share of ``cores``, over the run."""
    if len(series) < 2 or series[-1]["t_s"] <= series[0]["t_s"]:
        return None
    first, last, cores = series[0], series[-1], _watched(series, cores)
    steal = (last["steal_s"] - first["steal_s"]) / (last["t_s"] - first["t_s"]) / cores
    return min(_others(first, last), cores), max(0.0, steal)


def _watched(series: Series, cores: int) -> int:
    """How many cores the readings are of: the ``cores`` that are usable, but where a quota made them fewer."""
    return int(series[-1].get("cores", cores))


def disturbed_share(series: Series, limit: float) -> float:
    """Share of the time in which other processes took over ``limit`` cores, by steps of at least 0.3 s.

    The kernel counts in ticks of 10 ms: shorter steps would mistake one tick for load.
    """
    steps = [series[0]]
    for reading in series[1:]:
        if reading["t_s"] - steps[-1]["t_s"] >= 0.3:
            steps.append(reading)
    span = steps[-1]["t_s"] - steps[0]["t_s"]
    taken = sum(b["t_s"] - a["t_s"] for a, b in pairwise(steps) if _others(a, b) > limit)
    return taken / span if span else 0.0


def _others(first: Reading, last: Reading) -> float:
    others = (last["busy_s"] - first["busy_s"]) - (last["own_s"] - first["own_s"])
    return max(0.0, others / (last["t_s"] - first["t_s"]))


class Pressure:
    """Seconds since boot in which some process was ready to run and had no CPU: PSI, /proc/pressure/cpu. The kernel
    tells it of all cores together, so that it says nothing about a process that may run on some of them only."""

    name: ClassVar[str] = "cpu pressure"
    period_s: ClassVar[float] = 0.0

    def __init__(self, root: Path = Path("/"), allowed: frozenset[int] | None = None) -> None:
        self.path, self.stat = root / "proc/pressure/cpu", root / "proc/stat"
        self.allowed = allowed_cores() if allowed is None else allowed

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls(root)

    def read(self) -> Reading | None:
        if not self.allowed >= cores_of(read(self.stat) or ""):
            return None
        found = re.search(r"^some .*\btotal=(\d+)", read(self.path) or "", re.MULTILINE)
        return {"waiting_s": int(found[1]) / 1e6} if found else None

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        if len(series) < 2 or series[-1]["t_s"] <= series[0]["t_s"]:
            return []
        waited = series[-1]["waiting_s"] - series[0]["waiting_s"]
        share = waited / (series[-1]["t_s"] - series[0]["t_s"])
        if share <= MAX_PRESSURE:
            return []
        evidence = f"some process waited for a CPU in {share:.0%} of the time"
        return [Doubt("UNSTABLE", evidence, f"{QUIET}, or use fewer --threads")]


class Quota:
    """Periods in which a control group's quota stopped this process or others of its group, and for how many seconds of
    each core."""

    name: ClassVar[str] = "cpu quota"
    period_s: ClassVar[float] = 0.0

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls(root) if (root / "proc/self/cgroup").exists() else None  # a kernel without groups has no quotas

    def read(self) -> Reading | None:
        found = cgroups.throttled(self.root)
        if found is None:
            return None
        limit = cgroups.quota(self.root)
        known = {} if limit is None else {"quota": limit}
        return {"periods": float(found.periods), "stopped": float(found.stopped), "stopped_s": found.seconds, **known}

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        if len(series) < 2:
            return []
        first, last = series[0], series[-1]
        periods, stopped, seconds = (last[name] - first[name] for name in ("periods", "stopped", "stopped_s"))
        if stopped <= MAX_STOPPED * periods:
            return []
        limit = f" of {last['quota']:.3g} cores" if "quota" in last else ""
        evidence = (
            f"the CPU quota{limit} stopped the process in {stopped:.0f} of {periods:.0f} periods ({seconds:.1f} s)"
        )
        return [throttled(evidence, "raise the quota (--cpus, cpu.max, CPUQuota=), or use fewer --threads")]


class Frequency:
    """Clock of the fastest core in MHz, and the mean cap that the system puts on the cores.

    The fastest, because cores without work clock down and that is no throttling.
    """

    name: ClassVar[str] = "cpu frequency"
    period_s: ClassVar[float] = 0.0

    def __init__(self, root: Path = Path("/")) -> None:
        self.folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls(root)

    def read(self) -> Reading | None:
        now, caps = _khz(self.folders, "scaling_cur_freq"), _khz(self.folders, "scaling_max_freq")
        return {"mhz": max(now) / 1e3, "cap_mhz": sum(caps) / len(caps) / 1e3} if now and caps else None

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        """A lowered cap, or clocks that fell."""
        found = []
        caps = [reading["cap_mhz"] for reading in series]
        if caps and min(caps) < 0.99 * caps[0]:
            found.append(throttled(f"the system lowered the clock limit from {caps[0]:.0f} to {min(caps):.0f} MHz"))
        if len(series) >= 6:
            third = len(series) // 3
            early, late = (median(r["mhz"] for r in part) for part in (series[:third], series[-third:]))
            if late < 0.9 * early:
                found.append(throttled(f"clocks fell from {early:.0f} to {late:.0f} MHz during the run"))
        return found


def _khz(folders: Sequence[Path], name: str) -> list[int]:
    return [int(text) for folder in folders if (text := read(folder / name)) and text.isdigit()]


class Thermal:
    """How far the hottest zone is over its own throttling trip point, in °C, and the CPU's throttle counter."""

    name: ClassVar[str] = "temperature"
    period_s: ClassVar[float] = 0.0

    def __init__(self, root: Path = Path("/")) -> None:
        self.zones = [(zone, _trip_point(zone)) for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))]
        self.counters = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls(root)

    def read(self) -> Reading | None:
        over = [
            int(text) / 1e3 - trip
            for zone, trip in self.zones
            if trip is not None and (text := read(zone / "temp")) and re.fullmatch(r"-?\d+", text)
        ]
        counts = [int(text) for path in self.counters if (text := read(path)) and text.isdigit()]
        found = {"over_c": max(over)} if over else {}
        return found | ({"throttle_events": float(sum(counts))} if counts else {}) or None

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        """A trip point passed, or the CPU's own counter moved."""
        found = []
        over = [reading["over_c"] for reading in series if "over_c" in reading]
        if over and max(over) >= 0:
            found.append(throttled(f"a thermal zone was {max(over):.0f} °C past its throttling point"))
        counts = [reading["throttle_events"] for reading in series if "throttle_events" in reading]
        if counts and counts[-1] > counts[0]:
            found.append(throttled(f"the processor counted {counts[-1] - counts[0]:.0f} thermal throttle events"))
        return found


def _trip_point(zone: Path) -> float | None:
    """The lowest temperature in °C at which the zone slows the processor down, or None."""
    trips = []
    for kind in zone.glob("trip_point_*_type"):
        text = read(kind.with_name(kind.name.replace("_type", "_temp")))
        if read(kind) in ("passive", "hot", "critical") and text and text.isdigit() and int(text) > 0:
            trips.append(int(text) / 1e3)
    return min(trips, default=None)
