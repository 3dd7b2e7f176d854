"""What this machine can build, without importing coremltools or torch."""

from __future__ import annotations

import platform

from edgevit.registry import Here, version_of

SYSTEMS = ("Linux", "Darwin")


def here() -> Here:
    """coremltools writes packages on Linux and macOS; elsewhere its wheels have no converter."""
    system = platform.system()
    if system not in SYSTEMS:
        return Here(False, f"needs Linux or macOS to build Core ML packages, this is {system}")
    return Here(True, f"coremltools {version_of('coremltools')} builds mlprogram packages here, fp16 or fp32")
