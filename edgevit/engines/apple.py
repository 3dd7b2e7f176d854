"""Which systems of Apple run a Core ML package. Used where packages are built, listed and run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Ios = Literal["16", "17", "18"]
MACOS: Mapping[str, int] = {"16": 13, "17": 14, "18": 15}  # iOS of a package -> the macOS that came with it
USUAL: Ios = "17"  # of a package that was not asked for another
OLDEST: Ios = "16"

IN_PAIRS = ", ".join(f"{ios} with macOS {macos}" for ios, macos in MACOS.items())
RUNS_ON = f"iOS {USUAL} and macOS {MACOS[USUAL]} or later, or iOS {OLDEST} and macOS {MACOS[OLDEST]} with ios={OLDEST}"


def needs(ios: str = USUAL) -> str:
    """What a package for this iOS needs of a Mac, "needs macOS 14 or later". One that is not known is newer."""
    return f"needs macOS {wanted(ios)} or later"


def wanted(ios: str) -> int:
    """The oldest macOS that runs a package for this iOS."""
    return MACOS.get(ios, max(MACOS.values()))
