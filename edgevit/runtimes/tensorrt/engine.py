"""Opening an engine with TensorRT's own objects: what differs between the flavours is decided here by feature."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, Unsupported
from edgevit.runtimes.tensorrt.lock import Lock
from edgevit.runtimes.tensorrt.options import EngineOptions

_DTYPES = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}


@dataclass
class Log:
    """TensorRT's last errors."""

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=4))

    def said(self) -> str:
        return " ".join(" ".join(self.errors).split())[:300] or "it gave no reason"


def make_logger(trt: Any, log: Log) -> Any:
    """A logger that keeps errors and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                log.errors.append(msg)

    return Logger()


def open_engine(trt: Any, logger: Any, log: Log, artifact: Artifact, lock: Lock) -> tuple[Any, Any]:
    """The runtime object and the engine. Unsupported when TensorRT says the engine is not for this machine."""
    runtime = trt.Runtime(logger)
    if lock.accepts == "newer":
        runtime.engine_host_code_allowed = True  # a version-compatible engine brings its own lean runtime
    plan = artifact.entry.read_bytes()
    if hasattr(runtime, "get_engine_validity"):
        verdict, diagnostics = runtime.get_engine_validity(plan)
        if verdict == trt.EngineValidity.INVALID:
            reasons = invalidity(int(diagnostics), trt.EngineInvalidityDiagnostics.__members__)
            raise Unsupported(
                f"needs another machine: {lock.package.title} refuses this engine here ({reasons})",
                hint="update the driver, or export anew on this machine",
            )
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EdgeVitError(f"{lock.package.title} could not open {artifact.named}: {log.said()}", hint="export anew")
    check_ends(engine, artifact)
    return runtime, engine


def invalidity(diagnostics: int, known: Any) -> str:
    """The names of the set bits: "version mismatch, old cuda driver"."""
    names = [name.lower().replace("_", " ") for name, flag in known.items() if diagnostics & int(flag)]
    return ", ".join(names) or "no reason given"


def check_ends(engine: Any, artifact: Artifact) -> None:
    """BadArtifact unless the engine's inputs and outputs are the manifest's, names and types."""
    manifest = artifact.manifest
    wanted = {spec.name: _DTYPES[spec.dtype] for spec in (*manifest.inputs, *manifest.outputs)}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: engine.get_tensor_dtype(name).name for name in names}
    if found != wanted:
        raise BadArtifact(f"{artifact.named} has the ends {found}; the manifest says {wanted}", hint="export anew")


def profile_ranges(engine: Any, name: str) -> list[tuple[int, int, int]]:
    """(min, opt, max) rows of every profile, as the input ``name`` has them."""
    shapes = (engine.get_tensor_profile_shape(name, index) for index in range(engine.num_optimization_profiles))
    return [(int(low[0]), int(tuned[0]), int(high[0])) for low, tuned, high in shapes]


class Context:
    """An execution context with what has to live as long as it does: on RTX its configuration and kernel cache."""

    def __init__(self, trt: Any, engine: Any, log: Log, options: EngineOptions) -> None:
        self.compiles_here = hasattr(trt, "IRuntimeCache")  # RTX: kernels are compiled on the device
        self.cache_state = "none"
        self._path = options.runtime_cache
        self._cache: Any = None
        self._config: Any = None
        if self.compiles_here:
            self._config = self._configured(trt, engine, options)
            self.handle = engine.create_execution_context(self._config)
        else:
            self.handle = engine.create_execution_context()
        if self.handle is None:
            raise EdgeVitError(f"TensorRT could not make an execution context: {log.said()}")

    def _configured(self, trt: Any, engine: Any, options: EngineOptions) -> Any:
        config = engine.create_runtime_config()
        if options.cuda_graph:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._path is not None:
            self._cache = config.create_runtime_cache()
            # one made for another GPU or version is refused: then it is begun anew, as the details say
            stored = self._path.read_bytes() if self._path.is_file() else b""
            self.cache_state = "used" if stored and self._cache.deserialize(stored) else "begun"
            config.set_runtime_cache(self._cache)
        return config

    def save_cache(self) -> None:
        """Write the kernels compiled so far, in one rename."""
        if self._cache is None or self._path is None:
            return
        write_whole(self._path, bytes(self._cache.serialize()))


def write_whole(path: Path, data: bytes) -> None:
    """So that a reader sees the old or the new file, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    scratch.replace(path)
