"""What the CPU of this machine is, in the words that compiled artifacts are locked to, and how much of it is ours."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
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


def usable_cores() -> int:
    """Cores this process may use: the affinity mask, not the machine's total."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
