"""What the CPU of this machine is, in the words that compiled artifacts are locked to, and how much of it is ours."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from edgevit import cgroups
from edgevit.errors import UsageError

CPUINFO = Path("/proc/cpuinfo")
MOST_PER_CORE = 4  # threads
_NAMES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "armv7", "armv8l": "armv7"}


def arch(machine: str | None = None) -> str:
    """The instruction set of this machine (or of ``machine``, a ``uname -m`` name): "x86_64", "aarch64", "armv7" …"""
    machine = (machine or platform.machine()).lower()
    return _NAMES.get(machine, machine)


def flags() -> frozenset[str]:
    """CPU features by the Linux kernel's names; empty on a system without such a list."""
    try:
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(values.split())
    return frozenset()


def saturating() -> bool:
    """Whether products of 8-bit integers are added up in 16 bits here, as on x86 without VNNI, so that sums of them are
    cut off. False where the system has no list of features."""
    known = flags()
    return arch() == "x86_64" and bool(known) and not known & {"avx512_vnni", "avx_vnni", "amx_int8"}


def allowed_cores() -> frozenset[int]:
    """Numbers of the cores that this process may run on: its affinity mask, not the machine's total."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_quota(root: Path = cgroups.ROOT) -> float | None:
    """CPU seconds per second that control groups grant this process, where that is less than its cores could use."""
    quota = cgroups.quota(root)
    return quota if quota is not None and quota < len(allowed_cores()) else None


def usable_cores(root: Path = cgroups.ROOT) -> int:
    """Cores that this process can keep busy at once: those of its mask, as far as its quota goes. A quota of 1.5 is one
    core: a second thread would use it up before each period is over, and both would be stopped for the rest."""
    quota = cpu_quota(root)
    return len(allowed_cores()) if quota is None else max(1, int(quota))


def checked_threads(asked: int | None) -> int:
    """``asked``, or as many as there are usable cores. UsageError for less than one, and for so many that they would
    only take the cores from each other: over 4 for each usable core, and over the machine's own."""
    cores = usable_cores()
    if asked is None:
        return cores
    if asked < 1:
        raise UsageError(f"threads must be 1 or more, got {asked}")
    most = max(MOST_PER_CORE * cores, os.cpu_count() or 1)
    if asked > most:
        raise UsageError(
            f"{asked} threads are too many for the {_cores(cores)} that this process may use: at most {most}",
            hint=f"leave --threads out: then there are {cores}",
        )
    return asked


def crowding(threads: int) -> str | None:
    """A sentence where there are more threads than cores to run them, else None."""
    cores = usable_cores()
    return f"{threads} threads share the {_cores(cores)} that this process may use" if threads > cores else None


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"
