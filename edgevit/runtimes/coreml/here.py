"""What runs Core ML packages on this machine, without importing coremltools."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from edgevit.registry import Here

MACOS = {"16": 13, "17": 14, "18": 15}  # iOS of a package -> the macOS that came with it


def here() -> Here:
    """Core ML itself."""
    if platform.system() != "Darwin":
        return Here(False, f"needs macOS {MACOS['16']} or later")
    return Here(
        True, f"Core ML of macOS {platform.mac_ver()[0]}: CPU, GPU and Neural Engine; untested by us on any Mac"
    )


def here_reference() -> Here:
    """The reference evaluator."""
    return Here(True, "reference evaluator: proves artifacts on any machine, never used for latency")


def lacking(options: Mapping[str, object]) -> str | None:
    """What a package built with these exporter options needs and this machine has not, "needs macOS 14 or later"."""
    wanted = MACOS.get(str(options.get("ios", "17")), max(MACOS.values()))
    if platform.system() == "Darwin" and int(platform.mac_ver()[0].partition(".")[0] or 0) >= wanted:
        return None
    return f"needs macOS {wanted} or later"
