"""What Linux grants this process and denies it: the quotas of CPU time and the limits of memory of its control groups,
version 1 and 2.

A container's ``--cpus``, a pod's limit and systemd's ``CPUQuota`` are all one: so much CPU time in every period, for
all processes of a group and of the groups inside it. Who has used it up is stopped until the next period begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Throttled:
    """Since the groups were made: periods in which something ran, those in which it was stopped, and for how long (of
    each core, added up). In seconds."""

    periods: int = 0
    stopped: int = 0
    seconds: float = 0.0


def quota(root: Path = ROOT) -> float | None:
    """CPU seconds per second that this process may use together with the others of its groups; None without a limit,
    or where none can be read. ``root`` is where proc and sys are looked for."""
    limits = [limit for folder in groups(root) or () if (limit := _quota(folder)) is not None]
    return min(limits, default=None)


def throttled(root: Path = ROOT) -> Throttled | None:
    """By the quotas of all groups around this process; None where its groups cannot be looked into."""
    folders = groups(root)
    if folders is None:
        return None
    found = [_stat(folder) for folder in folders]
    return Throttled(
        sum(one.get("nr_periods", 0) for one in found),
        sum(one.get("nr_throttled", 0) for one in found),
        sum(one.get("throttled_usec", 0) / 1e6 + one.get("throttled_time", 0) / 1e9 for one in found),
    )


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes that this process may still take, by the tightest of the groups around it; None without a limit, or where
    none can be read."""
    found = [left for folder in groups(root, "memory") or () if (left := _memory_left(folder)) is not None]
    return min(found, default=None)


def groups(root: Path = ROOT, controller: str = "cpu") -> tuple[Path, ...] | None:
    """Folders of the groups whose limits count, the innermost first; none on a kernel without groups, None where the
    process is in groups that are not to be seen."""
    mounts, own = _text(root / "proc/self/mountinfo"), _text(root / "proc/self/cgroup")
    if mounts is None:
        return None
    paths = dict(line.split(":", 2)[1:] for line in (own or "").splitlines() if line.count(":") >= 2)
    first = next((names for names in paths if controller in names.split(",")), None)
    if first is None and "" not in paths:
        return ()
    # in a mixed system a controller belongs to one version alone: the first where that lists it
    kind, path = ("cgroup", paths[first]) if first is not None else ("cgroup2", paths[""])
    for top, mounted in _mounts(mounts, kind, controller):
        leaf = root / mounted.lstrip("/") / _below(path, top)
        return tuple(_upwards(leaf, root / mounted.lstrip("/")))
    return None


def _mounts(mountinfo: str, kind: str, controller: str) -> Iterable[tuple[str, str]]:
    """(group that is the top, where it is mounted) of the hierarchies of this controller."""
    for line in mountinfo.splitlines():
        place, _, system = line.partition(" - ")
        words, said = place.split(), system.split()
        if len(words) < 5 or len(said) < 3 or said[0] != kind:
            continue
        if kind == "cgroup2" or controller in said[2].split(","):
            yield _plain(words[3]), _plain(words[4])


def _plain(word: str) -> str:
    """mountinfo writes blanks and backslashes as \\040 and the like."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _below(path: str, top: str) -> str:
    """The group's path inside of what is mounted; the mounted top itself for a group outside of it, as in a container
    that sees its own group as the top while /proc tells the host's path."""
    inside = path.startswith(f"{top.rstrip('/')}/") and ".." not in path.split("/")
    return path[len(top.rstrip("/")) :].strip("/") if inside else ""


def _upwards(leaf: Path, top: Path) -> Iterable[Path]:
    """The folders from ``leaf`` up to ``top`` that are there."""
    for folder in (leaf, *leaf.parents):
        if folder.is_dir():
            yield folder
        if folder == top:
            return


def _quota(folder: Path) -> float | None:
    second = (_text(folder / "cpu.max") or "").split()  # "200000 100000", or "max 100000"
    first = [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]  # -1 without a limit
    time, period = second if len(second) == 2 else first
    if not (time and period and time.strip().isdigit() and period.strip().isdigit()):
        return None
    return int(time) / int(period) if int(period) else None


def _memory_left(folder: Path) -> int | None:
    """Files that nothing reads any more are counted as used, but make room at once."""
    for limit, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        bound, taken = ((_text(folder / name) or "").strip() for name in (limit, used))
        if bound.isdigit() and taken.isdigit():
            return max(0, int(bound) - int(taken) + _stat(folder, "memory.stat").get(idle, 0))
    return None


def _stat(folder: Path, name: str = "cpu.stat") -> dict[str, int]:
    lines = [line.split() for line in (_text(folder / name) or "").splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
