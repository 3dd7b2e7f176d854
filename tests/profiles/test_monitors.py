"""Monitors of a Linux kernel and the watch, on recorded files, on a fake tree and beside a real CPU hog."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar, Self

import pytest
from machines import timed, tree

from edgevit.profiles import monitors
from edgevit.profiles.monitors.base import Doubt, Reading, Series
from edgevit.profiles.verdict import Need, Run, judge, worst

PRESSURE = "some avg10=29.71 avg60=58.80 avg300=61.76 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


def stat(user: int, steal: int) -> str:
    return f"cpu  {user} 0 100 5000 10 0 0 {steal} 0 0\ncpu0 {user} 0 0 0 0 0 0 0 0 0\n"


def judged(**series: Series) -> tuple[str, str]:
    """Verdict and evidence of quiet samples beside what monitors saw; ``_`` in a name stands for a space."""
    samples = tuple(10.0 + 0.01 * (number % 7) for number in range(400))
    named = {name.replace("_", " "): readings for name, readings in series.items()}
    run = Run(samples, (10.0,) * 100, True, 5.0, 12.0, 0.0001, 1 << 20, named, (), sum(samples))
    findings = judge(run, Need(3.0, 64), cores=2)
    return worst(findings), "; ".join(finding.evidence for finding in findings)


# CPU time and pressure.


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


CORES = (
    "cpu  {all} 0 0 900 0 0 0 {stolen} 0 0\ncpu0 {first} 0 0 9 0 0 0 5 0 0\ncpu1 {second} 0 0 9 0 0 0 0 0 0\nintr 5 0\n"
)


def others_beside(tmp_path: Path, allowed: set[int], second: int) -> tuple[float, float]:
    """Cores' worth of others, and the stolen share, in 4 s of our own full use of core 0 while ``second`` ticks of 100
    a second went by on core 1."""
    own = iter([0.0, 4.0])
    series = []
    for at, first, other in ((0.0, 0, 0), (4.0, 400, second)):
        text = CORES.format(all=first + other, stolen=0, first=first, second=other)
        machine = tree(tmp_path, proc__stat=text)
        monitor = monitors.CpuTime(machine, own=lambda: next(own), hz=100, allowed=frozenset(allowed))
        series.append({"t_s": at, **(monitor.read() or {})})
    return monitors.others_share(series, cores=len(allowed)) or (-1, -1)


def test_a_process_on_one_core_looks_at_that_core_only(tmp_path: Path) -> None:
    assert others_beside(tmp_path, {0}, second=400) == (0.0, 0.0)
    assert others_beside(tmp_path, {0, 1}, second=400) == (1.0, 0.0)


def test_a_container_that_numbers_its_cores_anew_looks_at_all_it_sees(tmp_path: Path) -> None:
    assert others_beside(tmp_path, {6, 7}, second=200) == (0.5, 0.0)


def test_others_never_take_more_cores_than_there_are() -> None:
    (doubt,) = monitors.CpuTime.doubts(cpu_series([1.84] * 8), cores=1)
    assert doubt.evidence == "other processes took 1.00 of 1 cores meanwhile"


def test_under_a_quota_the_others_are_those_on_all_cores_that_the_process_may_run_on() -> None:
    series = [{**reading, "cores": 8.0} for reading in cpu_series([3.2] * 8)]
    (doubt,) = monitors.CpuTime.doubts(series, cores=1)
    assert doubt.evidence == "other processes took 3.20 of 8 cores meanwhile"


def test_pressure_of_the_whole_machine_is_not_taken_for_that_of_a_part(tmp_path: Path) -> None:
    stat_of_two = CORES.format(all=0, stolen=0, first=0, second=0)
    machine = tree(tmp_path, proc__pressure__cpu=PRESSURE.format(10), proc__stat=stat_of_two)
    assert monitors.Pressure(machine, frozenset({0, 1})).read() == {"waiting_s": 1e-05}
    with monitors.Watch([monitors.Pressure(machine, frozenset({0}))]) as watch:
        pass
    assert watch.unmonitored == ["cpu pressure"]


def quota_series(stopped: int, **more: float) -> list[Reading]:
    return timed(
        {"periods": 100.0, "stopped": 7.0, "stopped_s": 1.0, **more},
        {"periods": 862.0, "stopped": 7.0 + stopped, "stopped_s": 27.0, **more},
    )


def test_a_quota_that_stopped_the_process_is_throttling() -> None:
    verdict, said = judged(cpu_quota=quota_series(420, quota=0.08))
    assert verdict == "THROTTLED"
    assert said == "the CPU quota of 0.08 cores stopped the process in 420 of 762 periods (26.0 s)"


def test_a_quota_that_was_hardly_ever_used_up_is_none() -> None:
    assert judged(cpu_quota=quota_series(0)) == ("STEADY", "")
    assert judged(cpu_quota=quota_series(15, quota=2.0)) == ("STEADY", "")
    assert judged(cpu_quota=quota_series(16, quota=2.0))[0] == "THROTTLED"


def test_groups_that_cannot_be_seen_are_unmonitored(tmp_path: Path) -> None:
    with monitors.Watch([monitors.Quota(tmp_path)]) as watch:
        pass
    assert watch.unmonitored == ["cpu quota"]


def cpu_series(others: list[float], steal: float = 0.0) -> list[Reading]:
    """Readings 0.4 s apart, with this many cores' worth of others between each two, while we use one core."""
    busy, found = 0.0, [{"busy_s": 0.0, "own_s": 0.0, "steal_s": 0.0}]
    for number, share in enumerate(others, 1):
        busy += 0.4 * (1 + share)
        found.append({"busy_s": busy, "own_s": 0.4 * number, "steal_s": 0.4 * steal * number})
    return timed(*found)


def test_a_short_hog_in_a_long_run_is_not_diluted() -> None:
    verdict, said = judged(load_of_other_processes=cpu_series([0.0] * 20 + [1.0, 1.0, 0.9] + [0.02] * 20))
    assert verdict == "UNSTABLE"
    assert said == "other processes took over 0.2 of 2 cores in 7% of the time"


def test_one_hog_among_many_cores_is_still_a_hog() -> None:
    (doubt,) = monitors.CpuTime.doubts(cpu_series([1.0] * 8), cores=64)
    assert doubt.evidence == "other processes took 1.00 of 64 cores meanwhile"


def test_what_a_quiet_machine_does_besides_is_no_hog() -> None:
    recorded = [0.02, 0.0, 0.02, 0.0, -0.0, 0.02, 0.0, 0.1]  # profiles of 2026-11-21, two cores
    assert judged(load_of_other_processes=cpu_series(recorded, steal=0.01)) == ("STEADY", "")


def test_readings_close_together_do_not_turn_a_tick_into_a_hog() -> None:
    series = [*cpu_series([0.0] * 10), {"t_s": 4.01, "busy_s": 4.02, "own_s": 4.0, "steal_s": 0.0}]
    assert monitors.CpuTime.doubts(series, cores=2) == []


def test_stolen_time_is_unstable() -> None:
    assert judged(load_of_other_processes=cpu_series([0.0] * 8, steal=0.1))[1].startswith("the hypervisor took 5.0%")


def test_pressure_is_read_in_seconds_and_judged_by_its_growth(tmp_path: Path) -> None:
    monitor = monitors.Pressure(tree(tmp_path, proc__pressure__cpu=PRESSURE.format(2898495621)))
    first = monitor.read()
    assert first == {"waiting_s": 2898.495621}
    tree(tmp_path, proc__pressure__cpu=PRESSURE.format(2898495621 + 340_000))
    last = monitor.read()
    assert last is not None
    series = [{"t_s": 0.0, **first}, {"t_s": 1.0, **last}]
    assert judged(cpu_pressure=series) == ("UNSTABLE", "some process waited for a CPU in 34% of the time")
    assert judged(cpu_pressure=[series[0], {**series[1], "t_s": 10.0}])[0] == "STEADY"


def test_a_real_hog_of_one_second_is_never_steady() -> None:
    burn = "import time\nend = time.perf_counter() + 1\nwhile time.perf_counter() < end: pass"
    hog = subprocess.Popen([sys.executable, "-S", "-c", burn])
    try:
        with monitors.Watch([monitors.CpuTime()]) as watch:
            while hog.poll() is None:
                time.sleep(0.05)
    finally:
        hog.kill()
        hog.wait()
    assert watch.unmonitored == []
    assert judged(load_of_other_processes=watch.series["load of other processes"])[0] == "UNSTABLE"


# Clocks and temperatures.


def test_the_fastest_clock_and_the_mean_cap_are_read_in_mhz(tmp_path: Path) -> None:
    cpu = "sys__devices__system__cpu__cpu{}__cpufreq__{}"
    files = {cpu.format(0, "scaling_cur_freq"): "1000000", cpu.format(1, "scaling_cur_freq"): "2000000"}
    files |= {cpu.format(core, "scaling_max_freq"): "2400000" for core in (0, 1)}
    assert monitors.Frequency(tree(tmp_path, **files)).read() == {"mhz": 2000.0, "cap_mhz": 2400.0}


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
    steady = timed(*[{"mhz": 2000.0, "cap_mhz": 2400.0}] * 9)
    fell = [{**reading, "mhz": 2000.0 if n < 3 else 1500.0} for n, reading in enumerate(steady)]
    capped = [{**reading, "cap_mhz": 2400.0 if n < 5 else 1800.0} for n, reading in enumerate(steady)]
    cool = timed(*[{"over_c": -20.0, "throttle_events": 3.0}] * 2)
    hot = [*cool, {"t_s": 1.0, "over_c": 2.0, "throttle_events": 5.0}]
    assert judged(cpu_frequency=steady, temperature=cool) == ("STEADY", "")
    assert judged(cpu_frequency=fell) == ("THROTTLED", "clocks fell from 2000 to 1500 MHz during the run")
    assert judged(cpu_frequency=capped) == ("THROTTLED", "the system lowered the clock limit from 2400 to 1800 MHz")
    assert judged(temperature=hot) == (
        "THROTTLED",
        "a thermal zone was 2 °C past its throttling point; the processor counted 2 thermal throttle events",
    )


# The watch.


def test_monitors_that_cannot_be_read_are_listed_and_those_of_other_devices_are_absent(tmp_path: Path) -> None:
    watch = monitors.Watch(monitors.standard_monitors(tmp_path, system="linux"))
    watch.sample()
    assert watch.unmonitored == ["load of other processes", "cpu pressure", "cpu frequency", "temperature"]
    assert watch.series == {}


def test_a_mac_is_asked_for_nothing_of_linux() -> None:
    names = [monitor.name for monitor in monitors.standard_monitors(system="darwin")]
    assert names == ["load of other processes", "macOS thermal state"]


def test_a_monitor_that_fails_midway_is_unmonitored(tmp_path: Path) -> None:
    tree(tmp_path, proc__stat=stat(1, 0))
    watch = monitors.Watch([monitors.CpuTime(tmp_path)])
    watch.sample()
    assert watch.unmonitored == []
    (tmp_path / "proc/stat").unlink()
    watch.sample()
    assert watch.unmonitored == ["load of other processes"]
    assert watch.series == {}


class Fans:
    """A monitor that somebody else wrote."""

    name: ClassVar[str] = "fans"
    period_s: ClassVar[float] = 60.0

    def __init__(self) -> None:
        self.reads = 0

    @classmethod
    def here(cls, root: Path) -> Self | None:
        return cls()

    def read(self) -> Reading | None:
        self.reads += 1
        return {"rpm": 900.0}

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        slow = any(reading["rpm"] < 1000 for reading in series)
        return [Doubt("THROTTLED", "the fan stood still", "clean it")] if slow else []


class BrokenFans(Fans):
    name: ClassVar[str] = "broken fans"

    def read(self) -> Reading | None:
        raise ValueError("no number")


def test_a_third_partys_monitor_is_sampled_at_its_period_and_judged() -> None:
    fans = Fans()
    with monitors.Watch([fans]) as watch:
        watch.sample()
    assert fans.reads == 2  # at the start and at the end: its period is a minute
    run = Run((10.0,) * 400, (10.0,) * 100, True, 5.0, 12.0, 0.0001, None, watch.series, (), 4000.0)
    (finding,) = judge(run, Need(3.0, 64), 2, [*monitors.MONITORS, Fans])
    assert str(finding) == "THROTTLED: the fan stood still; clean it"


def test_a_monitor_with_a_bug_is_unmonitored_and_does_not_end_the_watch() -> None:
    fans = Fans()
    with monitors.Watch([BrokenFans(), fans]) as watch:
        pass
    assert watch.unmonitored == ["broken fans"]
    assert len(watch.series["fans"]) == 2


def test_a_watch_reads_at_both_ends_of_its_block(tmp_path: Path) -> None:
    ticks: list[int] = []
    with monitors.Watch([monitors.CpuTime(tree(tmp_path, proc__stat=stat(1, 0)))], lambda: ticks.append(1)) as watch:
        pass
    assert len(watch.series["load of other processes"]) >= 2
    assert len(ticks) >= 2
