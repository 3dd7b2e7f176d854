"""What this machine can run, without importing TensorRT."""

from __future__ import annotations

from edgevit.engines.nvidia import FLAVORS, find_gpu
from edgevit.registry import Here


def here() -> Here:
    """Whether there is a GPU, and which packages would run an engine on it."""
    gpu = find_gpu()
    if gpu is None:
        return Here(False, "needs an NVIDIA GPU")
    found = [f"{flavor.title} {version}" for flavor in FLAVORS.values() if (version := flavor.version())]
    return Here(
        True, f"{' and '.join(found)} on {gpu.name} (SM {gpu.sm // 10}.{gpu.sm % 10}); untested by us on any GPU"
    )
