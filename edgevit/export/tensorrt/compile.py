"""The worker's side of a build: ONNX file in, engine file and layer lists out. Nothing here survives the process.

Every fresh process gives the same engine bytes for the same input; a second build in one process does not (TensorRT
counts names up), which is one more reason for a worker per build.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgevit import worker
from edgevit.engines.nvidia import FLAVORS, Name
from edgevit.errors import EdgeVitError, ExportFailed
from edgevit.export.onnx.places import Places
from edgevit.export.tensorrt.integers import Integers, hold
from edgevit.export.tensorrt.layers import (
    LISTING,
    EngineLayer,
    NetworkLayer,
    check_engine,
    confirmed,
    count_compute,
    engine_ends,
    engine_layers,
    in_floats,
    layer_file,
    network_layers,
)
from edgevit.export.tensorrt.progress import make_monitor
from edgevit.export.tensorrt.refusals import ParserError, build_refused, parser_refused

LAYERS = "layers.json"
_ERRORS_KEPT = 4


@dataclass(frozen=True)
class Job:
    """What the worker is asked.

    sm        capabilities to build for; empty: the GPU that is there
    profiles  dynamic input -> (min, opt, max) shape
    modules   ONNX node -> PyTorch module
    lines     ONNX node -> line of the forward that it came from
    integers  what an int8 network is held against, as a mapping of ``Integers``
    """

    flavor: Name
    onnx: str
    engine: str
    layers: str
    sm: tuple[int, ...]
    profiles: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    modules: Mapping[str, str]
    optimization_level: int
    workspace_mb: int
    timing_cache: str
    version_compatible: bool
    threads: int | None = None
    lines: Mapping[str, str] = field(default_factory=dict)
    integers: Mapping[str, Any] | None = None

    def payload(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Log:
    """What TensorRT said: its last errors, and the verbose message that lists the engine's kernels."""

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_ERRORS_KEPT))
    listing: str = ""


def make_logger(trt: Any, log: _Log) -> Any:
    """A logger that keeps instead of printing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                log.errors.append(msg)
            elif msg.startswith(LISTING):
                log.listing = msg

    return Logger()


def compile_engine(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: a ``Job`` in; version, counts, seconds and bytes out. Writes the engine and ``layers.json``."""
    job = Job(**payload)
    trt, title, log = FLAVORS[job.flavor].load(), FLAVORS[job.flavor].title, _Log()
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    if job.threads:
        builder.max_threads = job.threads
    worker.report("parse the graph", None)
    network, parser = _parsed(trt, builder, logger, job, title)
    listed = network_layers(network, job.modules)
    held = _held(trt, network, job)
    begun = time.monotonic()
    config = _config(trt, builder, network, job, title)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise build_refused(list(log.errors), Places(job.modules, job.lines), title)
    seconds = time.monotonic() - begun
    if job.timing_cache:
        save_timing_cache(config, Path(job.timing_cache))
    Path(job.engine).write_bytes(plan)
    del parser  # it owns the weights that the network points to: it had to live until here
    kernels = engine_layers(log.listing, job.modules)
    Path(job.layers).write_text(
        json.dumps(layer_file(listed, kernels, engine_ends(log.listing)), indent=1) + "\n", "utf-8"
    )
    return {**_answer(trt, listed, kernels, seconds), "held": held}


def _held(trt: Any, network: Any, job: Job) -> str:
    """What holding an int8 network against its plan showed, "" for floats."""
    if job.integers is None:
        return ""
    worker.report("hold the integers against their plan", None)
    return hold(trt, network, Path(job.onnx), Integers(**job.integers)).sentence()


def _answer(trt: Any, listed: list[NetworkLayer], kernels: list[EngineLayer], seconds: float) -> dict[str, Any]:
    network, engine = count_compute(listed), confirmed(listed, kernels)
    if kernels:
        check_engine(network, engine, kernels)
    return {
        "version": str(trt.__version__),
        "network": network,
        "engine": engine,
        "kernels": len(kernels),
        "floats": in_floats(listed, kernels) if kernels else [],
        "seconds": seconds,
    }


def _parsed(trt: Any, builder: Any, logger: Any, job: Job, title: str) -> tuple[Any, Any]:
    """The strongly typed network of the ONNX file, and the parser that owns its weights."""
    # TensorRT 11 has no other kind of network and ignores the flag; 10 and RTX need it.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job.onnx):
        raise _refused(parser, job, title)
    return network, parser


def _refused(parser: Any, job: Job, title: str) -> EdgeVitError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    records = [
        ParserError(error.code().name, error.node_name(), error.node_operator(), error.desc()) for error in errors
    ]
    known = {record.operator: bool(parser.supports_operator(record.operator)) for record in records if record.operator}
    return parser_refused(records, known, Places(job.modules, job.lines), title)


def _config(trt: Any, builder: Any, network: Any, job: Job, title: str) -> Any:
    config = builder.create_builder_config()
    config.progress_monitor = make_monitor(trt, worker.report)
    config.builder_optimization_level = job.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the listing here and the inspector there
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, but fp32 with a 10-bit mantissa is not fp32
    if job.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mb << 20)
    if job.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if job.timing_cache:
        _use_timing_cache(config, Path(job.timing_cache))
    if job.sm and FLAVORS[job.flavor].ahead_of_time:
        _set_capabilities(trt, config, job.sm, title)
    if job.profiles:
        _set_profile(builder, config, network, job, title)
    return config


def _set_capabilities(trt: Any, config: Any, sms: tuple[int, ...], title: str) -> None:
    config.num_compute_capabilities = len(sms)
    for index, sm in enumerate(sms):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index):
            raise ExportFailed(f"{title} refused SM {sm // 10}.{sm % 10} among {sms}", hint="build for one at a time")


def _set_profile(builder: Any, config: Any, network: Any, job: Job, title: str) -> None:
    profile = builder.create_optimization_profile()
    for name, (low, tuned, high) in job.profiles.items():
        profile.set_shape(name, tuple(low), tuple(tuned), tuple(high))
    if config.add_optimization_profile(profile) < 0:
        raise ExportFailed(f"{title} refused the profile {dict(job.profiles)}", hint="please report this model")


def _use_timing_cache(config: Any, path: Path) -> None:
    stored = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False):
        raise ExportFailed(
            f"{path} is a timing cache of another GPU or TensorRT version", hint="name another file, or delete it"
        )


def save_timing_cache(config: Any, path: Path) -> None:
    """Write what the build learned, in one rename."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.write_bytes(bytes(config.get_timing_cache().serialize()))
    scratch.replace(path)
