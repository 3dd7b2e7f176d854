"""The environment and the monitors, on recorded proc and sys trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.profiles import environment, monitors

CPUINFO = (
    "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor avx2\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n"
)
ARM_CPUINFO = "processor\t: 0\nBogoMIPS\t: 108.00\nHardware\t: BCM2835\n"


def tree(root: Path, **files: str) -> Path:
    """Files under ``root``; ``__`` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_recorded_server_is_described(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__cpuinfo=CPUINFO,
        proc__meminfo="MemTotal:        8388608 kB\nMemFree: 1 kB\n",
        proc__loadavg="1.25 0.60 0.29 3/102 6805\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave\n",
    )
    (root / "etc").mkdir()
    (root / "etc/machine-id").write_text("3d1219c7\n")
    (root / ".dockerenv").touch()
    found = environment.collect(root)
    assert (found.cpu, found.ram_bytes, found.load_1min) == ("AMD EPYC", 8 << 30, 1.25)
    assert found.governor == "powersave"
    assert found.virtual[:2] == ("hypervisor", "docker")
    assert found.machine is not None
    assert len(found.machine) == 8
    assert "3d1219c7" not in found.machine


def test_an_arm_board_is_named_by_its_device_tree(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__cpuinfo=ARM_CPUINFO)
    assert environment.cpu_model(root) == "BCM2835"
    (root / "proc/device-tree").mkdir()
    (root / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B\0")
    assert environment.cpu_model(root) == "Raspberry Pi 5 Model B"


def test_an_unreadable_machine_gives_none_and_no_error(tmp_path: Path) -> None:
    found = environment.collect(tmp_path)
    assert (found.ram_bytes, found.governor, found.load_1min, found.machine) == (None, None, None, None)
    assert found.cpu


def test_the_key_is_equal_for_equal_conditions_and_differs_for_each_field() -> None:
    fields: dict[str, str | int | None] = {"device": "AMD EPYC", "threads": 2, "governor": None}
    assert environment.comparability_key(fields) == environment.comparability_key(dict(reversed(fields.items())))
    keys = {environment.comparability_key(fields | {name: "other"}) for name in fields}
    assert len(keys | {environment.comparability_key(fields)}) == 4
    assert all(len(key) == 12 for key in keys)


def stat(user: int, steal: int) -> str:
    return f"cpu  {user} 0 100 5000 10 0 0 {steal} 0 0\ncpu0 {user} 0 0 0 0 0 0 0 0 0\n"


def test_cpu_time_of_others_is_everybodys_minus_our_own(tmp_path: Path) -> None:
    own = iter([1.0, 3.0])
    monitor = monitors.CpuTime(tree(tmp_path, proc__stat=stat(1000, 0)), own=lambda: next(own), hz=100)
    first = monitor.read()
    tree(tmp_path, proc__stat=stat(1600, 40))
    last = monitor.read()
    assert first is not None
    assert last is not None
    series = [{"t_s": 0.0, **first}, {"t_s": 4.0, **last}]
    others, steal = monitors.others_share(series, cores=2) or (0, 0)
    assert others == pytest.approx(1.0)  # 6 s busy, 2 of them ours, in 4 s
    assert steal == pytest.approx(0.05)  # 0.4 of 8 core seconds


def test_monitors_that_cannot_be_read_are_listed_and_not_taken_for_clean(tmp_path: Path) -> None:
    watch = monitors.Watch(monitors.standard_monitors(tmp_path))
    watch.sample()
    assert watch.unmonitored == ["load of other processes", "cpu frequency", "temperature"]
    assert watch.series == {}


def test_a_monitor_that_fails_midway_is_unmonitored(tmp_path: Path) -> None:
    tree(tmp_path, proc__stat=stat(1, 0))
    watch = monitors.Watch([monitors.CpuTime(tmp_path)])
    watch.sample()
    assert watch.unmonitored == []
    (tmp_path / "proc/stat").unlink()
    watch.sample()
    assert watch.unmonitored == ["load of other processes"]
    assert watch.series == {}


def test_a_watch_reads_at_both_ends_of_its_block(tmp_path: Path) -> None:
    ticks: list[int] = []
    with monitors.Watch([monitors.CpuTime(tree(tmp_path, proc__stat=stat(1, 0)))], lambda: ticks.append(1)) as watch:
        pass
    assert len(watch.series["load of other processes"]) >= 2
    assert len(ticks) >= 2


def test_clocks_and_caps_are_read_in_mhz(tmp_path: Path) -> None:
    cpu = "sys__devices__system__cpu__cpu{}__cpufreq__{}"
    files = {cpu.format(0, "scaling_cur_freq"): "1000000", cpu.format(1, "scaling_cur_freq"): "2000000"}
    files |= {cpu.format(core, "scaling_max_freq"): "2400000" for core in (0, 1)}
    assert monitors.Frequency(tree(tmp_path, **files)).read() == {"mhz": 1500.0, "cap_mhz": 2400.0}


def test_the_hottest_zone_is_told_against_its_own_trip_point(tmp_path: Path) -> None:
    zone = "sys__class__thermal__thermal_zone{}__{}"
    files = {
        zone.format(0, "temp"): "61000",
        zone.format(0, "trip_point_0_type"): "passive",
        zone.format(0, "trip_point_0_temp"): "80000",
        zone.format(1, "temp"): "-5000",
        zone.format(1, "trip_point_0_type"): "active",
        zone.format(1, "trip_point_0_temp"): "1000",
        "sys__devices__system__cpu__cpu0__thermal_throttle__core_throttle_count": "3",
    }
    assert monitors.Thermal(tree(tmp_path, **files)).read() == {"over_c": -19.0, "throttle_events": 3.0}


def test_each_sign_of_throttling_is_a_sentence() -> None:
    steady = [{"t_s": float(n), "mhz": 2000.0, "cap_mhz": 2400.0} for n in range(9)]
    fell = [{**reading, "mhz": 2000.0 if n < 3 else 1500.0} for n, reading in enumerate(steady)]
    capped = [{**reading, "cap_mhz": 2400.0 if n < 5 else 1800.0} for n, reading in enumerate(steady)]
    cool = [{"t_s": 0.0, "over_c": -20.0, "throttle_events": 3.0}]
    assert monitors.throttle_evidence(steady, [*cool, *cool]) == []
    assert monitors.throttle_evidence(fell, []) == ["clocks fell from 2000 to 1500 MHz during the run"]
    assert monitors.throttle_evidence(capped, []) == ["the system lowered the clock limit from 2400 to 1800 MHz"]
    hot = [*cool, {"t_s": 1.0, "over_c": 2.0, "throttle_events": 5.0}]
    assert monitors.throttle_evidence([], hot) == [
        "a thermal zone was 2 °C past its throttling point",
        "the processor counted 2 thermal throttle events",
    ]
