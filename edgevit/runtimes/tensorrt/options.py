"""Options of an opened engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import UnknownName, Unsupported, UsageError
from edgevit.runtimes.tensorrt.lock import Lock

_NAMES = ("cuda_graph", "runtime_cache")


@dataclass(frozen=True)
class EngineOptions:
    """cuda_graph: replay one recorded graph per batch size. runtime_cache: file of the kernels compiled on this GPU."""

    cuda_graph: bool = False
    runtime_cache: Path | None = None


def parse_options(options: Mapping[str, Any], lock: Lock) -> EngineOptions:
    """UnknownName with the nearest name, UsageError for a bad value, Unsupported for what the flavour lacks."""
    for key in options:
        if key not in _NAMES:
            raise UnknownName("option of tensorrt", key, _NAMES)
    graph = str(options.get("cuda_graph", "false")).lower()
    if graph not in ("true", "false"):
        raise UsageError(f"cuda_graph must be true or false, not {graph!r}")
    cache = options.get("runtime_cache")
    if cache and lock.flavor != "rtx":
        raise Unsupported(
            "TensorRT compiles nothing when an engine is opened, so it has no runtime_cache",
            hint="drop it; --option tensorrt.timing_cache=FILE shortens the build",
        )
    return EngineOptions(graph == "true", Path(cache).expanduser() if cache else None)


def check_provider(provider: str | None) -> None:
    """An engine runs on CUDA and nowhere else."""
    if provider is not None and provider.lower() not in ("cuda", "gpu"):
        raise UnknownName("provider of tensorrt", provider, ("cuda",))
