"""Machines that a test makes: files of proc and sys, readings of monitors, a library that answers as NVML does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgevit.profiles.monitors import Reading

JETSON = {"proc__device-tree__compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0"}


def tree(root: Path, **files: str) -> Path:
    """Files under ``root``; ``__`` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def timed(*readings: Reading, step_s: float = 0.4) -> list[Reading]:
    return [{"t_s": step_s * number, **reading} for number, reading in enumerate(readings)]


FAKE = """
static int calls = 0;
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(0x700000000000 + index);
  return 0;
}
int REASONS_CALL(void *device, unsigned long long *reasons) {
  if (device < (void *)0x700000000000) return 2;
  *reasons = device == (void *)0x700000000000 ? REASONS : 1;
  return ++calls > GOOD_CALLS ? 15 : 0;
}
int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) { *mhz = type == 1 ? 1980 : 0; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) { *mj = 5000000000ULL; return 0; }
"""
DEFAULTS: dict[str, Any] = {"INIT": 0, "COUNT": 2, "REASONS": 1, "GOOD_CALLS": 1000}
DEFAULTS |= {"REASONS_CALL": "nvmlDeviceGetCurrentClocksEventReasons"}
# builds the library that its macros describe, returns its path
Library = Callable[..., str]


@pytest.fixture
def nvml_library(tmp_path: Path) -> Library:
    """A shared library with NVML's functions, made by the C compiler; its answers are macros."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")

    def build(**macros: Any) -> str:
        path = tmp_path / f"libnvidia-ml-{len(list(tmp_path.iterdir()))}.so"
        source = path.with_suffix(".c")
        source.write_text(FAKE)
        flags = [f"-D{name}={value}" for name, value in {**DEFAULTS, **macros}.items()]
        subprocess.run(["cc", "-shared", "-fPIC", *flags, "-o", str(path), str(source)], check=True)
        return str(path)

    return build
