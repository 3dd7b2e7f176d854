"""What this machine can build with TVM, without importing it."""

from __future__ import annotations

import shutil

from edgevit import cpu
from edgevit.export.tvm.link import CROSS_TOOLCHAINS, NATIVE
from edgevit.registry import Here


def here() -> Here:
    """Libraries for this CPU, and for others where their linker is installed."""
    native = cpu.arch()
    if shutil.which(NATIVE.command) is None:
        return Here(False, f"needs a C++ compiler to link with (sudo apt-get install {NATIVE.package})")
    others = [arch for arch, chain in CROSS_TOOLCHAINS.items() if arch != native and shutil.which(chain.command)]
    return Here(True, f"builds for this {native} CPU" + (f", and for {', '.join(others)}" if others else ""))
