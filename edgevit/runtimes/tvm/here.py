"""What the TVM runtime can run on this machine, without importing TVM."""

from __future__ import annotations

from edgevit import cpu
from edgevit.registry import Here

_WIDE = ("avx512f", "avx2", "avx", "sve", "asimd", "neon")


def here() -> Here:
    """CPU artifacts that were built for this instruction set, and for CUDA where its driver answers."""
    present = cpu.flags()
    widest = next((f" with {name}" for name in _WIDE if name in present), "")
    return Here(True, f"runs what was built for {cpu.arch()}{widest}")
