"""NVIDIA on a machine: its GPU, and the two TensorRT packages. Used where engines are built and where they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from edgevit.registry import CUDA_PYTHONS, version_of

Name = Literal["tensorrt", "rtx"]
Version = Callable[[str], str | None]


@dataclass(frozen=True)
class Flavor:
    """One of the two packages.

    module         what is imported
    distributions  wheels that bring it, with the CUDA major version they are built for (0: the wheel does not say)
    title          how people call it
    wheel          what pip installs
    ahead_of_time  builds with no GPU, for any of its compute capabilities; else only for the GPU that is there
    """

    name: Name
    module: str
    distributions: tuple[tuple[str, int], ...]
    title: str
    wheel: str
    ahead_of_time: bool

    def version(self, version_of: Version = version_of) -> str | None:
        """The installed version, None where the package is absent."""
        return next((found for name, _ in self.distributions if (found := version_of(name))), None)

    def cuda(self, version_of: Version = version_of) -> int:
        """The CUDA major version that the installed wheel is built for; 0 where that cannot be told."""
        return next((cuda for name, cuda in self.distributions if cuda and version_of(name)), 0)

    def load(self) -> Any:
        """The package itself."""
        return import_module(self.module)


FLAVORS: Mapping[str, Flavor] = {
    "tensorrt": Flavor(
        name="tensorrt",
        module="tensorrt",
        distributions=(("tensorrt-cu13", 13), ("tensorrt-cu12", 12), ("tensorrt", 0)),
        title="TensorRT",
        wheel="tensorrt",
        ahead_of_time=False,
    ),
    "rtx": Flavor(
        name="rtx",
        module="tensorrt_rtx",
        distributions=(("tensorrt-rtx-cu13", 13), ("tensorrt-rtx-cu12", 12), ("tensorrt-rtx", 0)),
        title="TensorRT-RTX",
        wheel="tensorrt-rtx",
        ahead_of_time=True,
    ),
}


@dataclass(frozen=True)
class Gpu:
    """sm: compute capability, 89 is SM 8.9. cuda_driver: newest CUDA that the driver runs, 13000 is CUDA 13.0."""

    name: str
    sm: int
    cuda_driver: int


def find_gpu() -> Gpu | None:
    """The first GPU (``CUDA_VISIBLE_DEVICES`` decides which that is), or None: no GPU, no driver, or no cuda-bindings
    to ask with."""
    if version_of(CUDA_PYTHONS) is None:
        return None
    from cuda.bindings import runtime as cuda

    error, count = cuda.cudaGetDeviceCount()  # without a driver this is an error code, not an exception
    if error != cuda.cudaError_t.cudaSuccess or not count:
        return None
    attributes = cuda.cudaDeviceAttr
    _, major = cuda.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, 0)
    _, minor = cuda.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, 0)
    _, properties = cuda.cudaGetDeviceProperties(0)
    _, driver = cuda.cudaDriverGetVersion()
    return Gpu(bytes(properties.name).decode(errors="replace").rstrip("\0"), int(major) * 10 + int(minor), int(driver))
