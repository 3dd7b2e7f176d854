"""Which TensorRT builds, and the driver that its engines need."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.engines.nvidia import FLAVORS, Flavor, Name, Version
from edgevit.errors import MissingDependency
from edgevit.registry import pip_line, version_of


@dataclass(frozen=True)
class Driver:
    """The oldest driver that runs an engine: as ``cudaDriverGetVersion`` counts (13000 is CUDA 13.0), and in words."""

    cuda: int
    words: str


# NVIDIA's prerequisites pages: r580 for every CUDA 13 build; TensorRT for CUDA 12 runs from r535 on; TensorRT-RTX for
# CUDA 12 asks for CUDA 12.9, which came with r575.
_DRIVERS: dict[tuple[Name, int], Driver] = {
    ("tensorrt", 13): Driver(13000, "r580"),
    ("rtx", 13): Driver(13000, "r580"),
    ("tensorrt", 12): Driver(12020, "r535"),
    ("rtx", 12): Driver(12090, "r575"),
}


def driver_for(flavor: Flavor, version_of: Version = version_of) -> Driver:
    """What engines of the installed ``flavor`` need; ``Driver(0, "unknown")`` where the wheel does not say."""
    return _DRIVERS.get((flavor.name, flavor.cuda(version_of)), Driver(0, "unknown"))


def choose_flavor(asked: str, version_of: Version = version_of) -> Flavor:
    """The flavour ``asked`` for, or the installed one ("": ``tensorrt`` first). MissingDependency with the pip line."""
    candidates = [flavor for flavor in FLAVORS.values() if asked in ("", flavor.name)]
    for flavor in candidates:
        if flavor.version(version_of):
            return flavor
    if asked:
        (flavor,) = candidates
        raise MissingDependency(f"{flavor.title} is not installed here", hint=f"pip install {flavor.wheel}")
    raise MissingDependency(
        "neither TensorRT nor TensorRT-RTX is installed here", hint=pip_line("edgevit[export,tensorrt]")
    )
