"""The environment, on recorded proc and sys trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.profiles import environment

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


CPUS = "sys__devices__system__cpu__"


def cpufreq(governors: list[str], **files: str) -> dict[str, str]:
    """Files of a sysfs tree: one core for each governor, 400 to 3600 MHz."""
    found = {f"{CPUS}{name}": text for name, text in files.items()}
    for core, governor in enumerate(governors):
        folder = f"{CPUS}cpu{core}__cpufreq__scaling_"
        found |= {f"{folder}governor": governor, f"{folder}min_freq": "400000\n", f"{folder}max_freq": "3600000\n"}
    return found


@pytest.mark.parametrize(
    ("governors", "files", "policy"),
    [
        (["performance"] * 2, {}, "performance, 400–3600 MHz"),
        (["powersave"], {"cpufreq__boost": "1\n"}, "powersave, 400–3600 MHz, boost on"),
        (["powersave"], {"intel_pstate__no_turbo": "1\n"}, "powersave, 400–3600 MHz, boost off"),
        (["schedutil", "performance"], {}, "mixed: schedutil, 400–3600 MHz; performance, 400–3600 MHz"),
        ([], {"cpufreq__boost": "1"}, "unreadable"),
    ],
)
def test_who_sets_the_clocks_and_within_which_limits(
    tmp_path: Path, governors: list[str], files: dict[str, str], policy: str
) -> None:
    assert environment.collect(tree(tmp_path, **cpufreq(governors, **files))).clocks == policy


def test_the_key_is_equal_for_equal_conditions_and_differs_for_each_field() -> None:
    fields: dict[str, str | int | None] = {"device": "AMD EPYC", "threads": 2, "governor": None}
    assert environment.comparability_key(fields) == environment.comparability_key(dict(reversed(fields.items())))
    keys = {environment.comparability_key(fields | {name: "other"}) for name in fields}
    assert len(keys | {environment.comparability_key(fields)}) == 4
    assert all(len(key) == 12 for key in keys)
