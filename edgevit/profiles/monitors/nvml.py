"""NVIDIA GPUs: why their clocks are not higher, from libnvidia-ml through ctypes (no package is needed).

Counted as throttling: hardware slowdown, hardware and software thermal slowdown, the power brake, and the software
power cap: under it, too, time depends on something else than the model. Not counted: idle, clocks that a person set,
sync boost and display clocks.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from edgevit.profiles.monitors.base import Doubt, Reading, Series, throttled

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
THROTTLING = {
    0x04: "its software power cap",
    0x08: "a hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "the external power brake",
}
_NO_DRIVER = (9, 12)  # NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND
_SM_CLOCK = 1
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")  # new, old driver


class NvmlError(Exception):
    """An NVML call failed. ``code`` is nvmlReturn_t."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} returned {code}")
        self.code = code


class Gpus:
    """The GPUs of this machine that NVML lists. NvmlError or OSError (no library) when it cannot be asked."""

    def __init__(self, library: str = LIBRARY) -> None:
        self.library = ctypes.CDLL(library)
        self.call("nvmlInit_v2")
        count = ctypes.c_uint()
        self.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self.handles = [self._handle(index) for index in range(count.value)]

    def call(self, function: str, *arguments: Any) -> None:
        code = int(getattr(self.library, function)(*arguments))
        if code:
            raise NvmlError(function, code)

    def _handle(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def reasons(self) -> int:
        """Clock event reasons of all GPUs, as one set of bits."""
        name = next((name for name in _REASONS if hasattr(self.library, name)), _REASONS[1])
        bits = 0
        for handle in self.handles:
            value = ctypes.c_ulonglong()
            self.call(name, handle, ctypes.byref(value))
            bits |= value.value
        return bits

    def clock_mhz(self) -> float:
        """SM clock of the fastest GPU."""
        clocks = []
        for handle in self.handles:
            value = ctypes.c_uint()
            self.call("nvmlDeviceGetClockInfo", handle, ctypes.c_int(_SM_CLOCK), ctypes.byref(value))
            clocks.append(value.value)
        return float(max(clocks))

    def joules(self) -> float:
        """Energy of all GPUs since the driver was loaded. NvmlError before Volta."""
        total = 0.0
        for handle in self.handles:
            value = ctypes.c_ulonglong()
            self.call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(value))
            total += value.value / 1e3
        return total


def find_gpus(library: str | None = None) -> Gpus | str | None:
    """The GPUs; None where there is no NVIDIA GPU or driver; a sentence where there is one that cannot be asked."""
    try:
        gpus = Gpus(library or LIBRARY)
    except (OSError, AttributeError):
        return None
    except NvmlError as error:
        return None if error.code in _NO_DRIVER else str(error)
    return gpus if gpus.handles else None


class Nvml:
    """Clock event reasons of all GPUs as bits, and the fastest SM clock in MHz."""

    name: ClassVar[str] = "NVIDIA GPU clocks"
    period_s: ClassVar[float] = 0.0

    def __init__(self, gpus: Gpus | None) -> None:
        self.gpus = gpus

    @classmethod
    def here(cls, root: Path) -> Self | None:
        gpus = find_gpus()
        return None if gpus is None else cls(gpus if isinstance(gpus, Gpus) else None)

    def read(self) -> Reading | None:
        if self.gpus is None:
            return None
        try:
            return {"reasons": float(self.gpus.reasons()), "sm_mhz": self.gpus.clock_mhz()}
        except (NvmlError, AttributeError):
            return None

    @staticmethod
    def doubts(series: Series, cores: int) -> list[Doubt]:
        words = [int(reading["reasons"]) for reading in series]
        shares = {
            what: sum(bool(word & bit) for word in words) / len(words) for bit, what in THROTTLING.items() if words
        }
        return [
            throttled(f"{what} held the GPU's clocks down in {share:.0%} of the readings")
            for what, share in shares.items()
            if share
        ]
