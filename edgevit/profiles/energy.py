"""Joules per inference, from the machine's own counters: RAPL, a Jetson's power rails, or NVML.

An energy meter is read by ``monitors.Watch`` beside the run, and before it while nothing runs: what the idle machine
takes anyway is subtracted. Below 60 s of run the figure would mean little and is "not measured", with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Protocol

from typing_extensions import Self

from edgevit.profiles.environment import read
from edgevit.profiles.monitors.base import Doubt, Reading, Series
from edgevit.profiles.monitors.nvml import Gpus, NvmlError, find_gpus
from edgevit.profiles.monitors.tegra import is_tegra

MIN_RUN_S = 60.0
MIN_IDLE_S = 5.0
MAX_GAP_S = 2.0  # between readings of power, which are all that is known about the time between them


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """No figure, and why."""

    reason: str

    def __str__(self) -> str:
        return f"not measured: {self.reason}"


@dataclass(frozen=True, slots=True)
class Energy:
    """``joules`` per inference above idle, of what ``source`` covers; mean watts of the run and of the idle time."""

    joules: float
    watts: float
    idle_watts: float
    seconds: float
    source: str


class Meter(Protocol):
    """A monitor whose readings hold ``joules`` (a counter) or ``watts`` (power now). ``source`` says of what."""

    name: ClassVar[str]
    period_s: ClassVar[float]
    source: str

    @classmethod
    def here(cls, root: Path) -> Self | None: ...
    def read(self) -> Reading | None: ...
    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]: ...


class _Meter:
    """What all meters share: they prove nothing against a run."""

    name: ClassVar[str] = "energy"
    period_s: ClassVar[float] = 0.0

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        return []


class Rapl(_Meter):
    """The processor packages and their memory: /sys/class/powercap/intel-rapl (AMD's too).

    Each counter wraps around at its max_energy_range_uj; readings are sums that go on.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        names = {zone: read(zone / "name") or "" for zone in zones}
        # cores and graphics are inside the package; psys is the whole platform and would count all twice
        self.zones = [zone for zone, name in names.items() if name.startswith("package") or name == "dram"]
        self.source = "RAPL " + " + ".join(names[zone] for zone in self.zones)
        self.ranges = {zone: int(read(zone / "max_energy_range_uj") or 0) for zone in self.zones}
        self.last: dict[Path, int] = {}
        self.total = 0

    @classmethod
    def here(cls, root: Path) -> Self | None:
        meter = cls(root)
        return meter if meter.zones else None

    def read(self) -> Reading | None:
        now = {zone: read(zone / "energy_uj") for zone in self.zones}
        if not now or None in now.values():
            return None
        for zone, text in now.items():
            value = int(text or 0)
            self.total += unwrapped(self.last.get(zone, value), value, self.ranges[zone])
            self.last[zone] = value
        return {"joules": self.total / 1e6}


def unwrapped(before: int, now: int, span: int) -> int:
    """How far a counter that starts over after ``span`` has moved."""
    return now - before if now >= before else now - before + span


class Rails(_Meter):
    """A Jetson's power rails, measured by INA3221: the module's input where it has a sensor, else all rails."""

    INPUT = ("VDD_IN", "POM_5V_IN")

    def __init__(self, root: Path = Path("/")) -> None:
        sensors = [folder for folder in (root / "sys/class/hwmon").glob("hwmon*") if read(folder / "name") == "ina3221"]
        labels = {path: read(path) or "" for folder in sorted(sensors) for path in sorted(folder.glob("in*_label"))}
        rails = {label: path for path, label in labels.items() if "sum" not in label.lower() and label != "NC"}
        inputs = {label: path for label, path in rails.items() if label in self.INPUT}
        self.rails = inputs or rails
        self.source = "Jetson rails " + " + ".join(self.rails)

    @classmethod
    def here(cls, root: Path) -> Self | None:
        meter = cls(root) if is_tegra(root) else None
        return meter if meter and meter.rails else None

    def read(self) -> Reading | None:
        watts = [_rail_watts(path) for path in self.rails.values()]
        known = [value for value in watts if value is not None]
        return {"watts": sum(known)} if known and len(known) == len(watts) else None


def _rail_watts(label: Path) -> float | None:
    """in1_label: millivolts in in1_input, milliamperes in curr1_input."""
    channel = label.name.removeprefix("in").removesuffix("_label")
    volts, amperes = read(label.with_name(f"in{channel}_input")), read(label.with_name(f"curr{channel}_input"))
    return None if volts is None or amperes is None else int(volts) * int(amperes) / 1e6


class GpuBoards(_Meter):
    """All NVIDIA GPU boards by NVML's counter."""

    source = "NVML"

    def __init__(self, gpus: Gpus) -> None:
        self.gpus = gpus

    @classmethod
    def here(cls, root: Path) -> Self | None:
        gpus = find_gpus()
        return cls(gpus) if isinstance(gpus, Gpus) else None

    def read(self) -> Reading | None:
        try:
            return {"joules": self.gpus.joules()}
        except (NvmlError, AttributeError):
            return None


def meter(root: Path = Path("/"), *, gpu: bool = False) -> Meter | NotMeasured:
    """The meter of what the run uses: a whole Jetson, else the GPU boards with ``gpu``, else the CPU packages."""
    kinds: tuple[type[Meter], ...] = (Rails, GpuBoards) if gpu else (Rails, Rapl)
    found = next((meter for kind in kinds if (meter := kind.here(root)) is not None), None)
    if found is None:
        wanted = "NVML's energy counter and Jetson rails" if gpu else "RAPL and Jetson rails"
        return NotMeasured(f"this machine has none of {wanted}")
    if found.read() is None:
        hint = " (since Linux 5.10 only root may)" if isinstance(found, Rapl) else ""
        return NotMeasured(f"{found.source} cannot be read{hint}")
    return found


def energy_joules(series: Series) -> float:
    """Joules between the first and the last reading: of the counter, or of power by the trapezoid rule."""
    if "joules" in series[0]:
        return series[-1]["joules"] - series[0]["joules"]
    return sum((a["watts"] + b["watts"]) / 2 * (b["t_s"] - a["t_s"]) for a, b in pairwise(series))


def joules_per_inference(run: Series, idle: Series, inferences: int, source: str) -> Energy | NotMeasured:
    """``run`` and ``idle`` are a meter's readings beside the run and before it; NotMeasured where they are too few."""
    spans = [_span(series) for series in (run, idle)]
    if spans[0] < MIN_RUN_S:
        return NotMeasured(f"{spans[0]:.0f} s of run, energy needs ≥ {MIN_RUN_S:.0f} s: use --tier standard")
    if spans[1] < MIN_IDLE_S:
        return NotMeasured(f"{spans[1]:.0f} s of idle time before the run, ≥ {MIN_IDLE_S:.0f} s are needed")
    if _has_gap(run) or _has_gap(idle):
        return NotMeasured(f"power was not read for over {MAX_GAP_S:.0f} s")
    watts, idle_watts = (energy_joules(series) / span for series, span in zip((run, idle), spans, strict=True))
    joules = (watts - idle_watts) * spans[0] / inferences
    if joules <= 0:
        return NotMeasured(f"the run took no more power ({watts:.1f} W) than the idle machine ({idle_watts:.1f} W)")
    return Energy(joules, watts, idle_watts, spans[0], source)


def _span(series: Sequence[Reading]) -> float:
    return series[-1]["t_s"] - series[0]["t_s"] if len(series) > 1 else 0.0


def _has_gap(series: Sequence[Reading]) -> bool:
    return "watts" in series[0] and any(b["t_s"] - a["t_s"] > MAX_GAP_S for a, b in pairwise(series))
