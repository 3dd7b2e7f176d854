"""The machine a number was measured on, and the key that says which numbers may be ranked against each other."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevit import registry
from edgevit.cpu import cpu_quota, usable_cores


@dataclass(frozen=True, slots=True)
class Environment:
    """What is known about this machine; None where it cannot be read. ``ram_bytes`` is the machine's total.

    machine      first 8 digits of a hash of the machine's id: tells machines apart without naming them
    governor     cpufreq governor of the first core
    clocks       who sets the clocks and within which limits, e.g. "powersave, 400–3600 MHz, boost on", or "unreadable"
    cpu_quota    CPU seconds per second that control groups grant, where that is less than the cores could use
    load_1min    load average when the environment was collected
    virtual      hints of a virtual machine or container, e.g. ("hypervisor", "docker")
    """

    cpu: str
    cores: int
    ram_bytes: int | None
    system: str
    kernel: str
    arch: str
    python: str
    edgevit: str
    machine: str | None
    governor: str | None
    load_1min: float | None
    virtual: tuple[str, ...]
    clocks: str = "unreadable"
    cpu_quota: float | None = None

    def record(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {**asdict(self), "virtual": list(self.virtual)}


def collect(root: Path = Path("/")) -> Environment:
    """This machine's environment. ``root`` is where proc, sys and etc are looked for: tests give a recorded tree."""
    facts = platform.uname()
    return Environment(
        cpu=cpu_model(root) or facts.processor or facts.machine,
        cores=usable_cores(root),
        ram_bytes=_ram(root),
        system=facts.system,
        kernel=facts.release,
        arch=facts.machine,
        python=platform.python_version(),
        edgevit=registry.own_version(),
        machine=_machine(root),
        governor=read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_1min=_load(root),
        virtual=_virtual(root),
        clocks=clocks_policy(root),
        cpu_quota=cpu_quota(root),
    )


def clocks_policy(root: Path) -> str:
    """Governor, boost and limits of the cores as one phrase; "mixed: …" where they are not alike; "unreadable" where
    cpufreq shows nothing (most virtual machines): the host may then do anything."""
    cpus = root / "sys/devices/system/cpu"
    found = list(dict.fromkeys(filter(None, map(_policy, sorted(cpus.glob("cpu[0-9]*/cpufreq"))))))
    if not found:
        return "unreadable"
    limits = found[0] if len(found) == 1 else f"mixed: {'; '.join(found)}"
    boost, no_turbo = read(cpus / "cpufreq/boost"), read(cpus / "intel_pstate/no_turbo")
    on = boost == "1" if boost in ("0", "1") else no_turbo == "0" if no_turbo in ("0", "1") else None
    return limits + ("" if on is None else f", boost {'on' if on else 'off'}")


def _policy(folder: Path) -> str:
    low, high = (read(folder / f"scaling_{end}_freq") or "" for end in ("min", "max"))
    limits = f"{int(low) // 1000}–{int(high) // 1000} MHz" if low.isdigit() and high.isdigit() else ""
    return ", ".join(part for part in (read(folder / "scaling_governor"), limits) if part)


def read(path: Path) -> str | None:
    """A small file's text, stripped; None when it cannot be read or is empty."""
    try:
        return path.read_text("utf-8", errors="replace").strip().strip("\0") or None
    except OSError:
        return None


def field(text: str | None, name: str) -> str | None:
    """The value of the first ``name : value`` line, as in /proc/cpuinfo and /proc/meminfo."""
    for line in (text or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip() or None
    return None


def cpu_model(root: Path) -> str | None:
    """The processor's name: x86 cpuinfo, else the board's device-tree model (Arm cpuinfo names no product)."""
    cpuinfo = read(root / "proc/cpuinfo")
    return field(cpuinfo, "model name") or read(root / "proc/device-tree/model") or field(cpuinfo, "Hardware")


def _ram(root: Path) -> int | None:
    total = field(read(root / "proc/meminfo"), "MemTotal")
    return int(total.split()[0]) * 1024 if total else None


def _machine(root: Path) -> str | None:
    name = read(root / "etc/machine-id") or read(root / "proc/device-tree/serial-number")
    return hashlib.sha256(f"edgevit {name}".encode()).hexdigest()[:8] if name else None


def _load(root: Path) -> float | None:
    text = read(root / "proc/loadavg")
    return float(text.split()[0]) if text else None


def _virtual(root: Path) -> tuple[str, ...]:
    found = []
    if "hypervisor" in (field(read(root / "proc/cpuinfo"), "flags") or "").split():
        found.append("hypervisor")
    if (root / ".dockerenv").exists():
        found.append("docker")
    if (root / "run/.containerenv").exists():
        found.append("podman")
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        found.append("kubernetes")
    return tuple(found)


def device_of(here: Environment) -> str:
    """What figures of one kind of machine share, in one phrase."""
    quota = "" if here.cpu_quota is None else f" at a CPU quota of {here.cpu_quota:g}"
    return f"{here.cpu}, {here.cores} cores{quota}, {here.arch}, {here.system}"


def comparability_key(fields: Mapping[str, str | int | float | bool | None]) -> str:
    """12 digits that are equal exactly where all ``fields`` are. Numbers with different keys are not ranked."""
    return hashlib.sha256(json.dumps(dict(fields), sort_keys=True).encode()).hexdigest()[:12]
