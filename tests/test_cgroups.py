"""CPU quotas of control groups: on trees recorded from machines, and in a real group where one can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit import cgroups, cpu
from edgevit.cgroups import Throttled, groups, memory_left, quota, throttled

SECOND = "29 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
FIRST = "33 32 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "34 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def machine(root: Path, mounts: str, own: str, **files: str) -> Path:
    """A machine's proc, and files of its groups: ``pod__cpu.max`` in /sys/fs/cgroup; ``__`` stands for a slash."""
    known = {"proc/self/mountinfo": mounts, "proc/self/cgroup": own}
    for name, text in known.items() | {(f"sys/fs/cgroup/{k.replace('__', '/')}", v) for k, v in files.items()}:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_quota_of_version_2_is_cores_worth_of_time(tmp_path: Path) -> None:
    files = {"app.slice__cpu.max": "150000 100000\n", "app.slice__cpu.stat": STAT_2}
    root = machine(tmp_path, SECOND.format(top="/"), "0::/app.slice\n", **files)
    assert quota(root) == 1.5
    assert throttled(root) == Throttled(762, 420, 26.5)


STAT_2 = "usage_usec 6000\nuser_usec 1\nsystem_usec 2\nnr_periods 762\nnr_throttled 420\nthrottled_usec 26500000\n"
STAT_1 = "nr_periods 762\nnr_throttled 420\nthrottled_time 26500000000\n"


def test_a_quota_of_version_1_is_the_same(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct__q__cpu.cfs_quota_us": "8000\n", "cpu,cpuacct__q__cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct__q__cpu.stat": STAT_1, "cpu,cpuacct__cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    }  # fmt: skip
    own = "9:memory:/elsewhere\n4:cpu,cpuacct:/q\n0::/user.slice\n"
    root = machine(tmp_path, MEMORY + FIRST.format(top="/") + SECOND.format(top="/"), own, **files)
    assert quota(root) == 0.08
    assert throttled(root) == Throttled(762, 420, 26.5)


def test_the_tightest_group_around_the_process_counts_wherever_it_is(tmp_path: Path) -> None:
    files = {
        "cpu.max": "max 100000", "pod__cpu.max": "50000 100000", "pod__app__cpu.max": "max 100000",
        "pod__app__inner__cgroup.procs": "", "other__cpu.max": "1000 100000",
    }  # fmt: skip
    root = machine(tmp_path, SECOND.format(top="/"), "0::/pod/app/inner\n", **files)
    assert quota(root) == 0.5
    assert [folder.name for folder in groups(root) or ()] == ["inner", "app", "pod", "cgroup"]


@pytest.mark.parametrize(
    ("top", "own"),
    [("/", "/"), ("/docker/3a7f", "/docker/3a7f"), ("/docker/3a7f", "/"), ("/", "/../../kubepods/x"), ("/a", "/ab/c")],
    ids=["own namespace", "the host's path", "moved", "outside of the namespace", "a name that only begins alike"],
)
def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path, top: str, own: str) -> None:
    root = machine(tmp_path, SECOND.format(top=top), f"0::{own}\n", **{"cpu.max": "200000 100000\n"})
    assert quota(root) == 2.0


def test_a_group_below_a_mounted_one_is_found_by_the_rest_of_its_path(tmp_path: Path) -> None:
    root = machine(tmp_path, SECOND.format(top="/lxc/a"), "0::/lxc/a/app\n", **{"app__cpu.max": "30000 100000"})
    assert quota(root) == 0.3


def test_a_mount_with_blanks_in_its_name_is_found(tmp_path: Path) -> None:
    mounts = SECOND.format(top="/").replace("/sys/fs/cgroup", r"/sys/fs/cgroup/my\040groups")
    root = machine(tmp_path, mounts, "0::/\n", **{"my groups__cpu.max": "10000 100000"})
    assert quota(root) == 0.1


@pytest.mark.parametrize("text", ["max 100000", "", "0 0", "-1 100000", "half", "nan 1", "100000 0"])
def test_what_is_no_limit_is_none(tmp_path: Path, text: str) -> None:
    assert quota(machine(tmp_path, SECOND.format(top="/"), "0::/\n", **{"cpu.max": text})) is None


def test_groups_that_cannot_be_seen_are_not_taken_for_unlimited_ones(tmp_path: Path) -> None:
    unmounted = machine(tmp_path / "a", MEMORY, "0::/docker/1\n")
    assert (groups(unmounted), throttled(unmounted), quota(unmounted)) == (None, None, None)
    assert throttled(tmp_path / "nothing") is None
    without_groups = machine(tmp_path / "b", "", "")
    assert (groups(without_groups), throttled(without_groups)) == ((), Throttled())


@pytest.mark.parametrize(("granted", "cores"), [(0.08, 1), (0.5, 1), (1.0, 1), (1.5, 1), (2.0, 2), (2.9, 2), (64.0, 4)])
def test_as_many_cores_are_usable_as_the_quota_keeps_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: float, cores: int
) -> None:
    monkeypatch.setattr(cpu, "allowed_cores", lambda: frozenset(range(4)))
    limit = {"cpu.max": f"{int(granted * 100_000)} 100000"}
    assert cpu.usable_cores(machine(tmp_path, SECOND.format(top="/"), "0::/\n", **limit)) == cores


BUSY = """
import json, pathlib, sys, time
from edgevit import cgroups, cpu
from edgevit.profiles.monitors import Quota, Watch
pathlib.Path(sys.argv[1], "cgroup.procs").write_text("0")  # itself; not before: to import takes it a second of work
before = cgroups.throttled()
with Watch([Quota()]) as watch:
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        pass
print(json.dumps({
    "quota": cgroups.quota(), "cores": cpu.usable_cores(), "stopped": cgroups.throttled().stopped - before.stopped,
    "doubts": [[doubt.verdict, doubt.evidence] for doubt in Quota.doubts(watch.series["cpu quota"], 1)],
}))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group inside our own that grants a fiftieth of a core."""
    own = cgroups.groups()
    if not own:
        pytest.skip("this machine shows no control groups")
    folder = own[0] / f"edgevit-test-{os.getpid()}"
    try:
        folder.mkdir()
        first = folder / "cpu.cfs_quota_us"
        if first.exists():
            (folder / "cpu.cfs_period_us").write_text("50000")
            first.write_text("1000")
        else:
            (folder / "cpu.max").write_text("1000 50000")
    except OSError as exc:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"a group with a quota cannot be made here: {exc}")
    yield folder
    folder.rmdir()


def test_a_process_in_a_real_group_knows_its_quota_and_that_it_was_stopped(group: Path) -> None:
    command = [sys.executable, "-c", BUSY, str(group)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    found = json.loads(ran.stdout)
    assert (found["quota"], found["cores"]) == (0.02, 1)
    assert found["stopped"] > 0
    ((verdict, evidence),) = found["doubts"]
    assert verdict == "THROTTLED"
    assert evidence.startswith("the CPU quota of 0.02 cores stopped the process in ")


def test_the_memory_that_is_left_is_the_tightest_groups_and_idle_files_make_room(tmp_path: Path) -> None:
    files = {
        "pod__memory.max": "5000\n", "pod__memory.current": "4000\n", "pod__memory.stat": "anon 9\ninactive_file 500\n",
        "pod__app__memory.max": "max\n", "pod__app__memory.current": "3000\n",
    }  # fmt: skip
    assert memory_left(machine(tmp_path, SECOND.format(top="/"), "0::/pod/app\n", **files)) == 1500


def test_memory_of_version_1_has_a_hierarchy_of_its_own(tmp_path: Path) -> None:
    files = {
        "memory__m__memory.limit_in_bytes": "5000\n", "memory__m__memory.usage_in_bytes": "6000\n",
        "memory__memory.limit_in_bytes": "9223372036854771712\n", "memory__memory.usage_in_bytes": "7000\n",
        "cpu,cpuacct__q__memory.limit_in_bytes": "1\n",
    }  # fmt: skip
    own = "9:memory:/m\n4:cpu,cpuacct:/q\n0::/user.slice\n"
    assert memory_left(machine(tmp_path, MEMORY + FIRST.format(top="/"), own, **files)) == 0


def test_without_a_limit_of_memory_there_is_none(tmp_path: Path) -> None:
    assert memory_left(machine(tmp_path, SECOND.format(top="/"), "0::/\n", **{"cgroup.procs": ""})) is None
    assert memory_left(tmp_path / "nothing") is None
