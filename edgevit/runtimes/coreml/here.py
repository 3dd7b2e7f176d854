"""What runs Core ML packages on this machine, without importing coremltools."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from edgevit.engines import apple
from edgevit.registry import Here


def here() -> Here:
    """Core ML itself."""
    if platform.system() != "Darwin":
        return Here(False, f"{apple.needs()}, or {apple.MACOS[apple.OLDEST]} for packages with ios={apple.OLDEST}")
    return Here(
        True, f"Core ML of macOS {platform.mac_ver()[0]}: CPU, GPU and Neural Engine; untested by us on any Mac"
    )


def here_reference() -> Here:
    """The reference evaluator."""
    return Here(True, "reference evaluator: proves artifacts on any machine, never used for latency")


def lacking(options: Mapping[str, object]) -> str | None:
    """What a package built with these exporter options needs and this machine has not, "needs macOS 14 or later"."""
    ios = str(options.get("ios", apple.USUAL))
    if platform.system() == "Darwin" and int(platform.mac_ver()[0].partition(".")[0] or 0) >= apple.wanted(ios):
        return None
    return apple.needs(ios)
