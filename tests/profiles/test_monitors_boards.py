"""Monitors of boards, Macs and GPUs, on what these print and on a library that answers as NVML does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from machines import JETSON, Library, nvml_library, timed, tree

from edgevit.profiles.monitors import MacPower, Nvml, Raspberry, Tegra, nvml, raspberry, standard_monitors
from edgevit.profiles.monitors.base import Doubt, Watch

__all__ = ["nvml_library"]  # the fixture

PI = {"proc__device-tree__model": "Raspberry Pi 5 Model B Rev 1.0\0"}


def evidence(doubts: Sequence[Doubt]) -> list[str]:
    assert all(doubt.verdict == "THROTTLED" for doubt in doubts)
    return [doubt.evidence for doubt in doubts]


def names(root: Path) -> list[str]:
    return [monitor.name for monitor in standard_monitors(root, system="linux")]


# Raspberry Pi.


@pytest.mark.parametrize(
    ("text", "bits"),
    [("throttled=0x50005\n", 0x50005), ("50005", 0x50005), ("0", 0), ("VCHI failed", None), (None, None)],
)
def test_both_forms_of_get_throttled_are_understood(text: str | None, bits: int | None) -> None:
    assert raspberry.parse(text) == bits


def test_the_kernels_file_is_preferred_and_only_a_pi_has_the_monitor(tmp_path: Path) -> None:
    assert "Raspberry Pi firmware" not in names(tmp_path)
    root = tree(tmp_path, **PI, **{raspberry.FILE.replace("/", "__"): "50000\n"})
    assert "Raspberry Pi firmware" in names(root)
    assert Raspberry(root, vcgencmd="/bin/false").read() == {"bits": float(0x50000)}


def test_vcgencmd_is_run_where_the_file_is_absent(tmp_path: Path) -> None:
    command = tmp_path / "vcgencmd"
    command.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x4\n')
    command.chmod(0o755)
    assert Raspberry(tmp_path, str(command)).read() == {"bits": 4.0}
    command.write_text("#!/bin/sh\necho VCHI initialization failed; exit 255\n")
    assert Raspberry(tmp_path, str(command)).read() is None
    assert Raspberry(tmp_path, str(tmp_path / "absent")).read() is None
    assert Raspberry.period_s >= 0.5


def pi(*words: int) -> list[str]:
    return evidence(Raspberry.doubts(timed(*({"bits": float(word)} for word in words)), 4))


def test_what_the_firmware_reports_now_is_throttling_and_what_was_before_the_run_is_not() -> None:
    assert pi(0x50000, 0x50000) == []
    assert pi(0, 0x1, 0x10000) == ["the Raspberry Pi's firmware reports under-voltage"]
    assert pi(0x8, 0x8) == ["the Raspberry Pi's firmware reports the soft temperature limit"]
    assert [said.split("reports ")[1] for said in pi(0x6)] == ["a capped clock", "throttling"]


def test_an_event_between_two_readings_is_seen_by_its_since_boot_bit() -> None:
    assert pi(0x10000, 0x50000) == ["the Raspberry Pi's firmware reports throttling"]


# Jetson.


def jetson(root: Path, alert: int, events: int) -> Path:
    cooling, hwmon = "sys__class__thermal__cooling_device{}__{}", "sys__class__hwmon__hwmon3__oc{}_event_cnt"
    files = {cooling.format(0, "type"): "pwm-fan", cooling.format(0, "cur_state"): "4"}
    files |= {cooling.format(1, "type"): "cpu-throttle-alert", cooling.format(1, "cur_state"): str(alert)}
    files |= {hwmon.format(1): "2", hwmon.format(3): str(events)}
    return tree(root, **JETSON, **files)


def test_a_jetson_counts_alerts_and_over_current_events(tmp_path: Path) -> None:
    assert "Tegra throttling" not in names(tmp_path)
    assert "Tegra throttling" in names(jetson(tmp_path, 0, 5))
    monitor = Tegra(tmp_path)
    quiet = monitor.read()
    assert quiet == {"alerts": 0.0, "overcurrent_events": 7.0}  # a fan that turns is no alert
    jetson(tmp_path, 1, 8)
    throttled = monitor.read()
    assert throttled is not None
    assert evidence(Tegra.doubts(timed(quiet, quiet), 6)) == []
    assert evidence(Tegra.doubts(timed(quiet, throttled), 6)) == [
        "a thermal throttle alert of the Jetson was active",
        "the Jetson throttled 3 times for over-current",
    ]


def test_a_jetson_whose_counter_cannot_be_read_is_unmonitored(tmp_path: Path) -> None:
    watch = Watch([Tegra(jetson(tmp_path, 0, 5))])
    (tmp_path / "sys/class/hwmon/hwmon3/oc1_event_cnt").unlink()
    watch.sample()
    assert watch.unmonitored == ["Tegra throttling"]
    assert Tegra(tmp_path / "absent").read() is None


# macOS.

INTEL = """2026-11-21 10:00:00 +0000 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= {}
"""
SILICON = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""


def mac(pmset: str | None, pressure: str | None) -> MacPower:
    def ask(command: Sequence[str]) -> str | None:
        return pmset if "pmset" in command[0] else pressure

    return MacPower(ask)


def test_an_intel_mac_tells_its_speed_limit() -> None:
    reading = mac(INTEL.format(61), None).read()
    assert reading == {"speed_limit": 61.0, "scheduler_limit": 100.0}
    assert evidence(MacPower.doubts(timed(reading), 8)) == ["macOS limited CPU speed to 61 %"]
    assert evidence(MacPower.doubts(timed({"speed_limit": 100.0}), 8)) == []


def test_apple_silicon_tells_its_thermal_pressure_and_without_it_is_unmonitored() -> None:
    cool = mac(SILICON, "com.apple.system.thermalpressurelevel 0\n").read()
    hot = mac(SILICON, "com.apple.system.thermalpressurelevel 2\n").read()
    assert (cool, hot) == ({"pressure": 0.0}, {"pressure": 2.0})
    assert evidence(MacPower.doubts(timed(cool), 8)) == []
    assert evidence(MacPower.doubts(timed(cool, hot), 8)) == ["macOS reports heavy thermal pressure"]
    assert mac(SILICON, None).read() is None


# NVML.


def test_a_machine_without_nvidia_gpu_has_no_such_monitor(nvml_library: Library) -> None:
    assert nvml.find_gpus("libthere-is-none.so.1") is None
    assert nvml.find_gpus(nvml_library(INIT=9)) is None  # the library is there, the driver is not
    assert nvml.find_gpus(nvml_library(COUNT=0)) is None


def test_reasons_of_all_gpus_are_joined(nvml_library: Library) -> None:
    gpus = nvml.find_gpus(nvml_library(REASONS=0x44))
    assert isinstance(gpus, nvml.Gpus)
    assert Nvml(gpus).read() == {"reasons": float(0x45), "sm_mhz": 1980.0}
    assert gpus.joules() == 2 * 5e6


def test_the_name_that_older_drivers_give_the_reasons_works_too(nvml_library: Library) -> None:
    gpus = nvml.find_gpus(nvml_library(REASONS=8, REASONS_CALL="nvmlDeviceGetCurrentClocksThrottleReasons"))
    assert isinstance(gpus, nvml.Gpus)
    assert gpus.reasons() == 9


def test_a_gpu_that_may_not_be_asked_is_unmonitored(nvml_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", nvml_library(INIT=4))  # NVML_ERROR_NO_PERMISSION
    assert nvml.find_gpus() == "nvmlInit_v2 returned 4"
    watch = Watch([monitor for monitor in standard_monitors(gpu=True) if isinstance(monitor, Nvml)])
    watch.sample()
    assert watch.unmonitored == ["NVIDIA GPU clocks"]


def test_a_gpu_that_is_lost_midway_is_unmonitored(nvml_library: Library) -> None:
    gpus = nvml.find_gpus(nvml_library(GOOD_CALLS=3))
    assert isinstance(gpus, nvml.Gpus)
    watch = Watch([Nvml(gpus)])
    watch.sample()
    assert watch.unmonitored == []
    watch.sample()
    assert watch.unmonitored == ["NVIDIA GPU clocks"]


def gpu(*words: int) -> list[str]:
    return evidence(Nvml.doubts(timed(*({"reasons": float(word), "sm_mhz": 1980.0} for word in words)), 16))


def test_an_idle_gpu_and_clocks_that_a_person_set_are_no_throttling() -> None:
    assert gpu(0x1, 0x2, 0x10, 0x100, 0) == []


@pytest.mark.parametrize("bit", [0x04, 0x08, 0x20, 0x40, 0x80])
def test_each_reason_that_holds_clocks_down_is_throttling(bit: int) -> None:
    (said,) = gpu(0, bit | 1, 0, 0)
    assert said.endswith("held the GPU's clocks down in 25% of the readings")


def test_a_gpu_is_watched_only_when_the_run_uses_it(nvml_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", nvml_library())
    assert not any(isinstance(monitor, Nvml) for monitor in standard_monitors())
    assert any(isinstance(monitor, Nvml) for monitor in standard_monitors(gpu=True))
