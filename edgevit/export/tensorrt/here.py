"""What this machine can build, without importing TensorRT."""

from __future__ import annotations

from edgevit.engines.nvidia import find_gpu
from edgevit.export.tensorrt.flavor import choose_flavor
from edgevit.export.tensorrt.targets import WITHOUT_GPU, sm_name, sm_names
from edgevit.registry import Here


def here() -> Here:
    """Which flavour builds here, and for which GPUs."""
    flavor, found = choose_flavor(""), find_gpu()
    gpu = found.sm if found else None
    named = f"{flavor.title} {flavor.version()}"
    if flavor.ahead_of_time:
        default = f"SM {sm_names(WITHOUT_GPU)}" if gpu is None else f"this machine's GPU, SM {sm_name(gpu)}"
        return Here(True, f"{named} builds without a GPU, by default for {default}")
    if gpu is not None:
        return Here(True, f"{named} builds for this machine's GPU, SM {sm_name(gpu)} (this flavour is untested by us)")
    return Here(False, f"needs an NVIDIA GPU to build with {named}, or tensorrt-rtx, which builds without one")
