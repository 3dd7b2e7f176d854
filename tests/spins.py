"""A runtime that takes as long as its artifact says, as users install one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plugin import artifact_of, install

# A registered plug-in. model.txt holds milliseconds, "first FILE SLOW QUICK" (the first process to open it is slow: it
# notes that in FILE), or a misdeed.
PLUGIN = """
import os, signal, time
import numpy as np
from edgevit.registry import Row
from edgevit.runtimes.base import Session

class SpinSession(Session):
    runtime, provider = "spin", "cpu"
    def __init__(self, artifact, threads, extra):
        super().__init__(artifact, threads)
        words = artifact.entry.read_text().split()
        self.misdeed = words[0] if words[0] in ("segfault", "nan") else None
        if self.misdeed:
            words = ["0.1"]
        if words[0] == "first":
            words = [words[3] if os.path.exists(words[1]) else words[2]]
            open(artifact.entry.read_text().split()[1], "w").close()
        self.seconds = (float(words[0]) + extra) / 1e3
    def _run(self, feeds):
        end = time.perf_counter() + self.seconds
        if self.misdeed == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        while time.perf_counter() < end:
            pass
        value = feeds["image"].reshape(len(feeds["image"]), -1)[:, :3]
        return {"logits": value * np.float32("nan") if self.misdeed == "nan" else value}

class Spin:
    name, extra = "spin", 0.0
    def open(self, artifact, *, threads, provider, options):
        return SpinSession(artifact, threads, self.extra)

class SlowSpin(Spin):
    name, extra = "slowspin", 29.0

class Reference(Spin):
    name = "reference"

SPIN = Row("spin", "spinruntime:Spin", "spin", (), "spins", formats=("spin",))
SLOW = Row("slowspin", "spinruntime:SlowSpin", "spin", (), "spins longer", formats=("spin",))
REFERENCE = Row("reference", "spinruntime:Reference", "spin", (), "never timed", formats=("spin",), can_profile=False)
"""


def install_spin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and in workers."""
    runtimes = {"spin": "SPIN", "slowspin": "SLOW", "reference": "REFERENCE"}
    install(folder, "spinruntime", PLUGIN, runtimes, monkeypatch)


def make(folder: Path, mode: str = "1.0", **options: Any) -> Path:
    """An artifact of it."""
    return artifact_of(folder, "spin", mode, **options)
