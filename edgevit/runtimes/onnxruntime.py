"""ONNX Runtime: the CPU provider by default, any other by name, never a silent fallback."""

from __future__ import annotations

import json
import platform
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.errors import (
    BadArtifact,
    EdgeVitError,
    MissingDependency,
    UnknownName,
    Unsupported,
    UsageError,
    first_line,
)
from edgevit.module_paths import module_of
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import QuantPlan
from edgevit.registry import absent
from edgevit.runtimes.base import LayerTime, Session, require_whole_sums
from edgevit.runtimes.limit import Limit, limit_of

if TYPE_CHECKING:
    from edgevit.quantize.pairs import Pairs

CPU = "CPUExecutionProvider"

# The wheel that brings a provider, where one is published. It replaces the plain onnxruntime package.
_WHEELS = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "QNNExecutionProvider": "onnxruntime-qnn",
    "DmlExecutionProvider": "onnxruntime-directml",
}
_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
# What its fusion makes of products, in integers and in floats.
_INTEGERS = frozenset(
    {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger",
     "DynamicQuantizeMatMul", "QAttention"}
)  # fmt: skip
_FLOATS = frozenset(
    {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention", "Einsum",
     "MultiHeadAttention"}
)  # fmt: skip
_TIMED = "_kernel_time"  # how the trace names the event that is a node's own time
_QUIET = 4  # fatal only: errors are raised as well, and warnings about node placement are answered by our own check
_OPTIONS = ("graph_optimization", "require")
_UNTIMED_RUNS = 3  # of a trace: the first inferences allocate


def provider_name(asked: str | None) -> str:
    """ONNX Runtime's own name of a provider given as "cpu", "CUDA" or "CUDAExecutionProvider"; CPU when None.

    UnknownName for one that ONNX Runtime does not know, MissingDependency or Unsupported for one not in this build.
    """
    if asked is None:
        return CPU
    known = {name.removesuffix("ExecutionProvider").lower(): name for name in ort.get_all_providers()}
    short = asked.removesuffix("ExecutionProvider").lower()
    if short not in known:
        raise UnknownName("provider", asked, known)
    name = str(known[short])
    available = ort.get_available_providers()
    if name in available:
        return name
    raise _lacking(name, ", ".join(found.removesuffix("ExecutionProvider").lower() for found in available))


def _lacking(name: str, have: str) -> EdgeVitError:
    """What to do about a provider that this build of ONNX Runtime lacks."""
    if wheel := _WHEELS.get(name):
        hint = f"pip uninstall onnxruntime && pip install {wheel}"
        if wheel == "onnxruntime-gpu" and platform.machine() == "aarch64":
            hint += "; on a Jetson as docs/how-to/jetson.md says"  # PyPI's wheels are not for its GPU
        return MissingDependency(f"this onnxruntime has no {name}; it has {have}", hint=hint)
    return Unsupported(f"this onnxruntime has no {name}", hint=f"use --provider {have}, or build one that has it")


class OnnxRuntimeSession(Session):
    """One opened ONNX file."""

    runtime = "onnxruntime"

    def __init__(self, artifact: Artifact, threads: int, session: Any, options: Mapping[str, Any]) -> None:
        super().__init__(artifact, threads)
        self._session = session
        self._options = dict(options)
        self._names = [spec.name for spec in self.outputs]
        self._how = how = ort.RunOptions()
        self._limit = Limit(limit_of(artifact.manifest), lambda: setattr(how, "terminate", True))
        weakref.finalize(self, self._limit.close)
        self.provider = session.get_providers()[0]
        self.words = dict(session.get_modelmeta().custom_metadata_map)
        self.details = {
            "onnxruntime": ort.__version__,
            "provider": self.provider,
            "graph_optimization": str(options.get("graph_optimization", "all")),
            **{f"{self.provider}.{key}": str(value) for key, value in _provider_options(session).items()},
        }

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise EdgeVitError(f"the session on {self.artifact.path} was closed", hint="open another one")
        self._limit.began()
        try:
            found = self._session.run(self._names, feeds, self._how)
        except Exception as exc:
            if self._limit.exceeded:
                said = f"{self.artifact.path} was stopped: one inference took more than {self._limit.seconds:.0f} s"
                raise EdgeVitError(said, hint="export it anew, or use a smaller batch") from exc
            raise EdgeVitError(f"ONNX Runtime could not run {self.artifact.path}: {_words(exc)}") from exc
        finally:
            self._limit.ended()
        return dict(zip(self._names, found, strict=True))

    def layers(self, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[LayerTime]:
        """Medians over ``runs`` inferences from ONNX Runtime's own trace, by a second session that writes it."""
        with tempfile.TemporaryDirectory(prefix="edgevit-trace-") as folder:
            made = session_options(self.threads, self._options)
            made.enable_profiling = True
            made.profile_file_prefix = str(Path(folder) / "onnxruntime")
            with self.artifact.privately() as private:
                traced = ort.InferenceSession(
                    str(private.entry), made, providers=self._session.get_providers(), enable_fallback=0
                )
            for index in range(_UNTIMED_RUNS + runs):
                traced.run(self._names, feeds[index % len(feeds)])
            return layer_times(json.loads(Path(traced.end_profiling()).read_text("utf-8")), runs)

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[dict[str, int], dict[str, int]]:
        kinds = Counter(one.op for one in self.layers([feeds], 1) if not _scaling(one.name))
        integers, floats = ({kind: kinds[kind] for kind in kinds if kind in names} for names in (_INTEGERS, _FLOATS))
        return integers, floats

    def operators(self, plan: QuantPlan) -> Sequence[Operator]:
        return self._pairs().operators(plan)

    def pieces(self, places: Sequence[tuple[str, str]], given: Iterable[Array]) -> Iterator[Array]:
        pairs = self._pairs()
        made = session_options(self.threads, self._options)
        for (x, y), piece, value in zip(places, pairs.pieces(places), given, strict=True):
            alone = ort.InferenceSession(
                piece.SerializeToString(), made, providers=self._session.get_providers(), enable_fallback=0
            )
            found: Array = alone.run([y], {x: value})[0]
            yield found

    def _pairs(self) -> Pairs:
        if absent(("onnx",)):  # which a device need not have
            raise Unsupported("what its file says of integers needs the package onnx to be read")
        from edgevit.quantize.pairs import Pairs

        with self.artifact.privately() as private:
            return Pairs(private.entry)

    def close(self) -> None:
        self._session = None
        self._limit.close()


class OnnxRuntime:
    """Opens onnx artifacts.

    Options: ``graph_optimization`` = all (default) | extended | basic | none; ``require`` = true makes it fatal that a
    node is left to the CPU by another provider.
    """

    name = "onnxruntime"

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """A session on exactly the provider that was asked for. Raises as ``provider_name``; BadArtifact when ONNX
        Runtime refuses the file or its inputs and outputs are not the manifest's."""
        wanted = provider_name(provider)
        if wanted == CPU:
            require_whole_sums(artifact)
        made = session_options(threads, options)
        try:
            # Without enable_fallback=0 the Python wrapper prints a line and goes on with the CPU.
            session = ort.InferenceSession(
                str(artifact.entry), made, providers=_with_cpu(wanted, _is_true(options)), enable_fallback=0
            )
        except Exception as exc:
            raise _refused(artifact, wanted, exc) from exc
        if session.get_providers()[0] != wanted:
            raise Unsupported(
                f"{wanted} did not start, ONNX Runtime would have used {session.get_providers()[0]}",
                hint="check the provider's drivers, or leave --provider out",
            )
        _check_names(artifact, session)
        return OnnxRuntimeSession(artifact, threads, session, options)


def _refused(artifact: Artifact, wanted: str, exc: Exception) -> EdgeVitError:
    """What an error of opening means: a broken file, or something this build or machine does not have."""
    said = f"ONNX Runtime {ort.__version__} cannot open {artifact.named}: {_words(exc)}"
    kind = type(exc).__name__
    if kind == "NotImplemented":
        return Unsupported(said, hint="use another --provider, or a newer onnxruntime")
    if wanted != CPU and kind not in ("InvalidProtobuf", "InvalidGraph", "NoSuchFile"):
        return Unsupported(f"{wanted}: {said}", hint="check the provider's drivers, or leave --provider out")
    return BadArtifact(said, hint="export anew")


def _check_names(artifact: Artifact, session: Any) -> None:
    manifest = artifact.manifest
    for kind, specs, found in (
        ("inputs", manifest.inputs, session.get_inputs()),
        ("outputs", manifest.outputs, session.get_outputs()),
    ):
        ours, theirs = sorted(spec.name for spec in specs), sorted(value.name for value in found)
        if ours != theirs:
            raise BadArtifact(
                f"the {kind} of {artifact.named} are {', '.join(theirs)}; the manifest says {', '.join(ours)}",
                hint="export anew",
            )


def _provider_options(session: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = session.get_provider_options().get(session.get_providers()[0], {})
    return found


def _with_cpu(wanted: str, alone: bool) -> list[str]:
    # Every provider but the CPU's leaves some nodes to it, and a session without it would not load at all.
    return [wanted] if alone or wanted == CPU else [wanted, CPU]


def _is_true(options: Mapping[str, Any]) -> bool:
    value = str(options.get("require", "false")).lower()
    if value not in ("true", "false"):
        raise UsageError(f"require must be true or false, not {value!r}")
    return value == "true"


def session_options(threads: int, options: Mapping[str, Any]) -> Any:
    """ort.SessionOptions with ``threads`` for the work inside a node; UsageError for an option we do not have."""
    level = str(options.get("graph_optimization", "all"))
    for key in options:
        if key not in _OPTIONS:
            raise UnknownName("option of onnxruntime", key, _OPTIONS)
    if level not in _LEVELS:
        raise UsageError(f"graph_optimization must be one of {', '.join(_LEVELS)}, not {level!r}")
    made = ort.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.log_severity_level = _QUIET
    made.graph_optimization_level = _LEVELS[level]
    if _is_true(options):
        made.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return made


def layer_times(trace: Sequence[Mapping[str, Any]], runs: int) -> list[LayerTime]:
    """One record per node from a parsed trace: the median of its last ``runs`` times, in the order the nodes ran."""
    times: dict[tuple[str, str], list[float]] = {}
    nodes: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event in trace:
        if event.get("cat") == "Node" and str(event["name"]).endswith(_TIMED):
            key = (str(event["name"]).removesuffix(_TIMED), str(event["args"].get("node_index")))
            times.setdefault(key, []).append(float(event["dur"]) / 1e3)
            nodes[key] = event["args"]
    return [
        LayerTime(
            name=key[0],
            op=str(args.get("op_name", "?")),
            module=module_of(key[0]),
            unit=str(args.get("provider", "?")).removesuffix("ExecutionProvider").lower(),
            ms=median(times[key][-runs:]),
        )
        for key, args in nodes.items()
    ]


def _scaling(name: str) -> bool:
    """Whether a node was no product before fusion: a channel's factor becomes a convolution of blocks there."""
    return name.rpartition("/")[2].startswith(("Mul", "Add", "BatchNormalization"))


def _words(exc: Exception) -> str:
    """The engine's own words without its bracketed codes and the lines after the first."""
    return first_line(exc).rpartition(" : ")[2]
