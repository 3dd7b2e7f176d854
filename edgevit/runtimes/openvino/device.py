"""OpenVINO: the engine of its own IR, and a second one for ONNX files. The precision it computes in is asked for, read
back and stated.

On processors with bf16 units OpenVINO would compute a float32 model in bf16 unasked; here it does what was asked for or
refuses. It sends no usage data and writes no cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.engines.intel import ov, said_by, words_of
from edgevit.errors import EdgeVitError, UnknownName, Unsupported
from edgevit.module_paths import module_of
from edgevit.precisions import INTEGER_PRECISIONS
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import QuantPlan
from edgevit.runtimes.base import LayerTime, Session, require_whole_sums
from edgevit.runtimes.openvino.integers import Stored
from edgevit.runtimes.openvino.kernels import Ran, ran
from edgevit.runtimes.openvino.reading import IR, read_model

DEVICES = ("cpu", "gpu", "npu")  # not AUTO, HETERO or MULTI: they choose the device themselves
PRECISIONS = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16")}  # hint, capability
_OWN = ("bf16",)  # precisions of artifacts that are computed in, and not only stored
_UNTIMED_RUNS = 3  # of a trace: the first inferences allocate
_LAYOUT = r"_[a-fA-F]{2,6}(?:\d+[a-f])*"  # a memory layout, abcd or aBcd8b: inserted reorders are FROM_abcd_acdb_TO


def device_name(asked: str | None, available: Sequence[str]) -> str:
    """OpenVINO's name of a device given as "cpu", "GPU" or "gpu.1"; CPU when None.

    UnknownName for one that is none of OpenVINO's, Unsupported for one that is not among ``available``.
    """
    name = (asked or "cpu").upper()
    if name.partition(".")[0].lower() not in DEVICES:
        raise UnknownName("provider of openvino", asked or "", DEVICES)
    if not any(name in (found, found.partition(".")[0]) for found in available):
        have = ", ".join(found.lower() for found in available) or "nothing"
        raise Unsupported(
            f"needs {name} and its driver; OpenVINO finds {have} here", hint=f"use --provider {have}, or install it"
        )
    return name


@dataclass(frozen=True)
class Opening:
    """A model that was read, and how it is compiled: once to run, again to be timed, and its operators alone."""

    core: Any
    model: Any
    device: str
    settings: Mapping[str, Any]

    def compiled(self, model: Any = None, **more: Any) -> Any:
        """``model``, or the whole."""
        return self.core.compile_model(self.model if model is None else model, self.device, {**self.settings, **more})


class OpenVinoSession(Session):
    """One model compiled for one device, with one request: calls run one after another."""

    runtime = "openvino"

    def __init__(self, artifact: Artifact, threads: int, opening: Opening, compiled: Any) -> None:
        super().__init__(artifact, threads)
        self._opening, self.words, device = opening, dict(words_of(opening.model)), opening.device
        self._ports = {spec.name: compiled.input(spec.name) for spec in self.inputs}
        self._results = {spec.name: compiled.output(spec.name) for spec in self.outputs}
        self._request = compiled.create_infer_request()
        self.provider = device
        self.details = {
            "openvino": str(ov.__version__),
            "device": f"{device}: {ov.Core().get_property(device, 'FULL_DEVICE_NAME')}",
            **{key.lower(): _shown(compiled.get_property(key)) for key in _settings(device, threads, "fp32")},
        }
        floats = self.details["inference_precision_hint"]
        own = artifact.manifest.precision
        self.precision = own if own in INTEGER_PRECISIONS and floats == "fp32" else floats
        self.threads = int(self.details.get("inference_num_threads", threads))  # never more than there are cores

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._request is None:
            raise EdgeVitError(f"the session on {self.artifact.path} was closed", hint="open another one")
        try:
            return self._infer(self._request, feeds)
        except Exception as exc:
            raise EdgeVitError(f"OpenVINO could not run {self.artifact.path}: {said_by(exc)}") from exc

    def _infer(self, request: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for name, array in feeds.items():
            request.set_tensor(self._ports[name], ov.Tensor(np.ascontiguousarray(array), shared_memory=True))
        request.infer()
        # copied: OpenVINO writes the next results to the same memory
        return {name: request.get_tensor(port).data.copy() for name, port in self._results.items()}

    def layers(self, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[LayerTime]:
        """Medians over ``runs`` inferences from OpenVINO's own counters, by a second compilation that has them."""
        request = self._opening.compiled(PERF_COUNT=True).create_infer_request()
        times: dict[str, list[float]] = {}
        found: dict[str, Any] = {}
        for index in range(_UNTIMED_RUNS + runs):
            self._infer(request, feeds[index % len(feeds)])
            for info in request.profiling_info:
                if info.status == ov.ProfilingInfo.Status.EXECUTED:
                    times.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e3)
                    found[info.node_name] = info
        unit = self.provider.lower()
        return [
            LayerTime(name, str(info.node_type), _module(name), unit, median(times[name][-runs:]))
            for name, info in found.items()
        ]

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[dict[str, int], dict[str, int]]:
        found = self._ran(feeds)
        return dict(found.integers), dict(found.floats)

    def in_floats(self, feeds: Mapping[str, Array], operators: Sequence[Operator]) -> tuple[str, ...]:
        floats = self._ran(feeds).in_floats
        return tuple(one.node for one in operators if one.node in floats)

    def _ran(self, feeds: Mapping[str, Array]) -> Ran:
        compiled = self._opening.compiled()
        self._infer(compiled.create_infer_request(), feeds)  # kernels are chosen when the first shapes are known
        return ran(compiled, self._opening.model)

    def operators(self, plan: QuantPlan) -> Sequence[Operator]:
        return self._stored().operators(plan)

    def pieces(self, places: Sequence[tuple[str, str]], given: Iterable[Array]) -> Iterator[Array]:
        return self._stored().pieces(places, given, self._opening.compiled)

    def _stored(self) -> Stored:
        if self.artifact.manifest.target != IR:
            raise Unsupported("what an ONNX file says of integers is held against its plan in ONNX Runtime alone")
        return Stored.of(self._opening.model)

    def close(self) -> None:
        self._request = None
        self._ports, self._results = {}, {}


class OpenVinoRuntime:
    """Opens openvino and onnx artifacts.

    Options: ``precision`` = fp32 | bf16 | fp16, what it computes in, whatever the weights are stored in; default: bf16
    of an artifact that was proved in it, else fp32.
    """

    name = "openvino"

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """A session on exactly the device that was asked for. Raises as ``device_name``; Unsupported for a precision
        that the device does not compute in; BadArtifact for a file that OpenVINO refuses or that is not the
        manifest's."""
        precision = _precision(options, artifact)
        core = ov.Core()
        device = device_name(provider, core.available_devices)
        _check_precision(core, device, precision)
        if device.startswith("CPU"):
            require_whole_sums(artifact)
        settings = _settings(device, threads, precision)
        model = read_model(core, artifact)
        opening = Opening(core, model, device, settings)
        try:
            compiled = opening.compiled()
        except Exception as exc:
            raise Unsupported(
                f"OpenVINO {ov.__version__} cannot compile {artifact.named} for {device}: {said_by(exc)}",
                hint="use another --provider or --runtime",
            ) from exc
        if (used := _shown(compiled.get_property("INFERENCE_PRECISION_HINT"))) != precision:
            raise Unsupported(f"OpenVINO would compute in {used} instead of {precision} on {device}", hint=_other(used))
        return OpenVinoSession(artifact, threads, opening, compiled)


def _precision(options: Mapping[str, Any], artifact: Artifact) -> str:
    """What was asked for, or what the artifact was proved in: weights in fewer bits are multiplied in fp32."""
    for key in options:
        if key != "precision":
            raise UnknownName("option of openvino", key, ("precision",))
    own = artifact.manifest.precision if artifact.manifest.precision in _OWN else "fp32"
    asked = str(options.get("precision", own))
    if asked not in PRECISIONS:
        raise UnknownName("precision of openvino", asked, PRECISIONS)
    return asked


def _check_precision(core: Any, device: str, precision: str) -> None:
    """Unsupported where the device has no units for it: OpenVINO itself would take another without a word."""
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if PRECISIONS[precision][1] in able or (precision == "fp32" and device.startswith("CPU")):
        return
    offered = [name for name, (_, capability) in PRECISIONS.items() if capability in able]
    raise Unsupported(
        f"needs {precision} arithmetic, which this {device} has not; it offers {', '.join(offered) or 'none of ours'}",
        hint=_other(offered[0] if offered else "fp32"),
    )


def _other(precision: str) -> str:
    return f"use the openvino option precision={precision}"


def _settings(device: str, threads: int, precision: str) -> dict[str, Any]:
    """One request at a time, as fast as it goes, in the stated precision. Threads go where the system puts them, as
    ONNX Runtime's do: pinned ones would stay on a core that another process is using."""
    found: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[precision][0]}
    if device.startswith("CPU"):
        found |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    return found


def _shown(value: Any) -> str:
    """A property of OpenVINO in our words: its f32 is our fp32."""
    if isinstance(value, ov.Type):
        known = {ov.Type.f32: "fp32", ov.Type.bf16: "bf16", ov.Type.f16: "fp16"}
        return known.get(value) or str(value.get_type_name())
    return str(getattr(value, "name", value)).lower()


def _module(node: str) -> str | None:
    """``module_of``, where a reorder between two nodes belongs to the one that asked for it."""
    return module_of(re.sub(f"^.+{_LAYOUT}{_LAYOUT}_", "", node))
