"""TVM's Python package with as little of it as running a model needs, and its pool of threads.

The wheel holds a runtime library (3 MB) and a compiler (259 MB). Running needs the first alone: 0.5 s and 90 MB
instead of 1.2 s and 200 MB. Where torch is installed tvm_ffi would import that too, for another 2 s and 200 MB.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from edgevit.cpu import usable_cores
from edgevit.errors import Unsupported

_RUNTIME_ONLY = "TVM_USE_RUNTIME_LIB"
_BIND = "TVM_BIND_THREADS"
_SHARE_ALL_CORES = -3  # TVM's kSpecifyThreadShareAllCore: the affinity mode that takes a list of cores


def load() -> Any:
    """The ``tvm`` package: as the process has it already, else with the runtime library only."""
    if "tvm" in sys.modules:
        return sys.modules["tvm"]
    with _environment(_RUNTIME_ONLY, "1"), _without("torch"):
        return import_module("tvm")


def is_runtime_only() -> bool:
    """Whether the compiler was left out of this process."""
    return bool(import_module("tvm.base")._RUNTIME_ONLY)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = before if before is not None else value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Keep an optional package from being imported as a side effect; one that is imported already stays."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    try:
        yield
    finally:
        sys.modules.pop(package, None)


class _Pool(threading.local):
    """TVM keeps one pool for each thread that calls it. Its size is fixed when it is made; fewer of it may be used."""

    size = 0
    used = 0


_pool = _Pool()


def use_threads(threads: int) -> None:
    """Make TVM's calls from this thread run on exactly ``threads`` threads; cheap when they do already.

    Unsupported when the pool was made smaller before, which only a larger count than the usable cores can meet.
    """
    if _pool.used == threads:
        return
    os.environ.setdefault(_BIND, "0")  # otherwise TVM pins the caller itself, and all threads it starts later
    configure = _function("runtime.config_threadpool")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    if not _pool.size:
        _pool.size = max(threads, usable_cores())
        configure(_SHARE_ALL_CORES, _pool.size, _listed(cores, _pool.size))
    configure(_SHARE_ALL_CORES, threads, _listed(cores, threads))
    _pool.used = int(_function("runtime.NumThreads")())
    if _pool.used != threads:
        raise Unsupported(
            f"TVM's pool in this process has {_pool.used} threads, {threads} were asked for",
            hint=f"set TVM_NUM_THREADS={threads} before the process starts, or ask for at most {_pool.used}",
        )


def _listed(cores: list[int], threads: int) -> list[str]:
    return [str(cores[index % len(cores)]) for index in range(threads)]


def _function(name: str) -> Any:
    return import_module("tvm_ffi").get_global_func(name)
