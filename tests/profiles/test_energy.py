"""Energy meters on fake trees, and joules per inference from made readings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from machines import JETSON, Library, nvml_library, tree

from edgevit.profiles import energy
from edgevit.profiles.energy import Energy, NotMeasured
from edgevit.profiles.monitors import Reading, Watch, nvml

__all__ = ["nvml_library"]  # the fixture

ZONE = "sys__class__powercap__intel-rapl:{}__{}"


def rapl(root: Path, package: int, dram: int) -> Path:
    """One package with cores and memory inside, the platform beside it, and the package again by another driver."""
    counters = {"0": ("package-0", package), "0:0": ("core", 999), "0:1": ("dram", dram), "1": ("psys", 999)}
    files = {}
    for zone, (name, value) in counters.items():
        files |= {ZONE.format(zone, "name"): name, ZONE.format(zone, "energy_uj"): str(value)}
        files |= {ZONE.format(zone, "max_energy_range_uj"): "1000000000"}
    mmio = "sys__class__powercap__intel-rapl-mmio:0__{}"
    return tree(root, **files, **{mmio.format("name"): "package-0", mmio.format("energy_uj"): str(package)})


def test_rapl_sums_packages_and_memory_once(tmp_path: Path) -> None:
    meter = energy.Rapl(rapl(tmp_path, 400_000_000, 100_000_000))
    assert meter.source == "RAPL package-0 + dram"
    assert meter.read() == {"joules": 0.0}
    rapl(tmp_path, 430_000_000, 105_000_000)
    assert meter.read() == {"joules": 35.0}


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    meter = energy.Rapl(rapl(tmp_path, 990_000_000, 0))
    meter.read()
    rapl(tmp_path, 20_000_000, 0)
    assert meter.read() == {"joules": 30.0}
    rapl(tmp_path, 25_000_000, 0)
    assert meter.read() == {"joules": 35.0}


def test_a_counter_that_only_root_may_read_is_a_reason(tmp_path: Path) -> None:
    rapl(tmp_path, 1, 1)
    for path in (tmp_path / "sys/class/powercap").glob("*/energy_uj"):
        path.unlink()  # the tests may run as root, who may read all
    found = energy.meter(tmp_path)
    assert isinstance(found, NotMeasured)
    assert "RAPL package-0 + dram cannot be read (since Linux 5.10 only root may)" in str(found)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    assert str(energy.meter(tmp_path)) == "not measured: this machine has none of RAPL and Jetson rails"


def jetson(root: Path, *labels: str) -> Path:
    hwmon = "sys__class__hwmon__hwmon2__{}"
    files = {hwmon.format("name"): "ina3221"}
    for number, label in enumerate(labels, 1):
        files |= {hwmon.format(f"in{number}_label"): label, hwmon.format(f"in{number}_input"): "5000"}
        files |= {hwmon.format(f"curr{number}_input"): str(1000 * number)}
    return tree(root, **JETSON, **files)


def test_the_modules_input_rail_stands_for_all(tmp_path: Path) -> None:
    meter = energy.meter(jetson(tmp_path, "VDD_CPU_GPU_CV", "VDD_IN", "VDD_SOC", "sum of shunt voltages"))
    assert isinstance(meter, energy.Rails)
    assert meter.source == "Jetson rails VDD_IN"
    assert meter.read() == {"watts": 10.0}


def test_without_an_input_rail_all_rails_are_summed(tmp_path: Path) -> None:
    meter = energy.meter(jetson(tmp_path, "VDD_GPU_SOC", "VDD_CPU_CV", "NC", "sum of shunt voltages"))
    assert isinstance(meter, energy.Rails)
    assert meter.read() == {"watts": 15.0}
    (tmp_path / "sys/class/hwmon/hwmon2/curr2_input").unlink()
    assert meter.read() is None


def test_a_gpu_run_is_measured_by_the_boards_counter(
    nvml_library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", nvml_library(COUNT=1))
    meter = energy.meter(rapl(tmp_path, 1, 1), gpu=True)
    assert isinstance(meter, energy.GpuBoards)
    assert meter.read() == {"joules": 5e6}


def test_a_watch_reads_a_meter_like_any_monitor(tmp_path: Path) -> None:
    meter = energy.meter(rapl(tmp_path, 0, 0))
    assert isinstance(meter, energy.Rapl)
    with Watch([meter]) as watch:
        rapl(tmp_path, 7_000_000, 0)
    assert energy.energy_joules(watch.series["energy"]) == 7.0


def counter(watts: float, seconds: float) -> list[Reading]:
    return [{"t_s": 0.4 * n, "joules": 3.0 + watts * 0.4 * n} for n in range(round(seconds / 0.4) + 1)]


def power(watts: float, seconds: float) -> list[Reading]:
    return [{"t_s": 0.4 * n, "watts": watts} for n in range(round(seconds / 0.4) + 1)]


@pytest.mark.parametrize("series", [counter, power])
def test_idle_power_is_subtracted(series: object) -> None:
    assert callable(series)
    found = energy.joules_per_inference(series(12.0, 80.0), series(4.0, 10.0), 3200, "RAPL package-0")
    assert isinstance(found, Energy)
    assert found.joules == pytest.approx(0.2)  # 8 W above idle, 40 inferences a second
    assert (found.watts, found.idle_watts) == (pytest.approx(12.0), pytest.approx(4.0))


@pytest.mark.parametrize(
    ("run", "idle", "reason"),
    [
        (counter(12.0, 59.2), counter(4.0, 10.0), "59 s of run, energy needs ≥ 60 s: use --tier standard"),
        ([], counter(4.0, 10.0), "0 s of run"),
        (counter(12.0, 60.0), counter(4.0, 2.0), "2 s of idle time before the run, ≥ 5 s are needed"),
        (power(12.0, 70.0)[::8], power(4.0, 10.0), "power was not read for over 2 s"),
        (counter(4.0, 60.0), counter(4.5, 10.0), r"no more power \(4.0 W\) than the idle machine \(4.5 W\)"),
    ],
)
def test_too_little_is_not_measured(run: list[Reading], idle: list[Reading], reason: str) -> None:
    found = energy.joules_per_inference(run, idle, 1000, "rails")
    assert isinstance(found, NotMeasured)
    assert re.search(reason, found.reason), found.reason


def test_power_that_changes_is_integrated() -> None:
    ramp = [{"t_s": float(n), "watts": float(n)} for n in range(11)]
    assert energy.energy_joules(ramp) == pytest.approx(50.0)
