"""The call of coremltools: nothing printed, progress told, a deadline kept, failures in terms of the model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from edgevit.errors import EdgeVitError, ExportFailed, Unsupported, first_line
from edgevit.export.base import Capture, Context
from edgevit.export.coreml import kinds, layout
from edgevit.export.coreml.options import CoreMlOptions
from edgevit.export.coreml.program import Source
from edgevit.export.coreml.quiet import ScopeSource, ct, frontend, passes, silence
from edgevit.export.legalise.refusals import named

Selector = Callable[[Any], bool]

_DTYPES = {
    "float32": np.float32,
    "uint8": np.float32,
    "int32": np.int32,
    "int64": np.int32,
    "bool": np.int32,
}  # of specs
# It writes x * scale + shift as a batch_norm with its default epsilon of 1e-5: every value 5e-6 off, more than fp32 is.
_INEXACT = "common::fuse_elementwise_to_batchnorm"
# Where and how a tensor lies in memory; its kind is told by ``kinds``.
_INDIFFERENT = frozenset(
    ("dtype", "device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "implicit", "generator")
)
_PROGRESS = "convert to mlprogram"
_OPTIMISED = 3  # pass pipelines that run after the translation: frontend, common, backend


def convert(
    source: Source,
    capture: Capture,
    options: CoreMlOptions,
    low_precision: Selector | None,
    context: Context,
    last: Mapping[str, Any] | None = None,
) -> Any:
    """An MLModel in memory, never loaded. ``low_precision`` says which operations become fp16; None keeps float32.

    Inputs and outputs keep the names and types of the captured specs. Raises Unsupported naming the operator and its
    module, ExportFailed when the deadline passed. ``last`` are passes that run when all others are done, each with what
    it puts in.
    """
    watch = _Watch(context, {node.meta.get("debug_handle"): node for node in source.program.graph.nodes})
    try:
        with silence(), watch.told(), kinds.kept(lambda: watch.node):
            return ct.convert(
                source.program,
                convert_to="mlprogram",
                inputs=_inputs(capture, options),
                outputs=[ct.TensorType(name=spec.name, dtype=_DTYPES[spec.dtype]) for spec in capture.outputs],
                minimum_deployment_target=getattr(ct.target, f"iOS{options.ios}"),
                compute_precision=_precision(low_precision),
                pass_pipeline=_pipeline(options.ane_layout, last or {}),
                skip_model_load=True,
            )
    except EdgeVitError:
        raise
    except Exception as exc:
        raise watch.refusal(exc) from exc


def handle_of(operation: Any) -> int | None:
    """The ``debug_handle`` of the fx node that a MIL operation came from."""
    found = operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE)
    return found[0] if found else None


def _precision(low_precision: Selector | None) -> Any:
    if low_precision is None:
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=low_precision)


def _inputs(capture: Capture, options: CoreMlOptions) -> list[Any]:
    """Names and types of the specs; shapes, with the range of the batch, come from the program."""
    if options.image_input:  # an RGB picture arrives as (1, H, W, 3) values of 0 to 255
        spec = capture.inputs[0]
        return [ct.ImageType(name=spec.name, shape=spec.shape, color_layout=ct.colorlayout.RGB, channel_first=False)]
    return [ct.TensorType(name=spec.name, dtype=_DTYPES[spec.dtype]) for spec in capture.inputs]


def _pipeline(ane_layout: bool, last: Mapping[str, Any]) -> Any:
    found = ct.PassPipeline.DEFAULT
    found.remove_passes({_INEXACT})
    if ane_layout:  # late, when linear layers and LayerNormalizations are whole; before types are chosen
        found.insert_pass(found.passes.index("common::remove_redundant_ops"), layout.PASS)
    for name, emit in last.items():
        found.append_pass(name)
        found.set_options(name, {"emit": emit})
    return found


@dataclass
class _Watch:
    """Stands where coremltools draws its progress bars: it tells ours, keeps the deadline, and remembers the node.

    called  the calls of the program by ``debug_handle``
    node    what coremltools translates now
    """

    context: Context
    called: Mapping[int | None, fx.Node]
    node: Any = None

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._pipelines = 0

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        bars = (frontend, "_tqdm"), (passes, "tqdm")
        before = [getattr(module, name) for module, name in bars]
        frontend._tqdm, passes.tqdm = self._nodes, self._passes
        try:
            yield
        finally:
            for (module, name), bar in zip(bars, before, strict=True):
                setattr(module, name, bar)

    def _nodes(self, nodes: Iterable[Any], **_: Any) -> Iterator[Any]:
        listed = list(nodes)
        for index, self.node in enumerate(listed):
            self._tick(index / len(listed) / (1 + _OPTIMISED))
            self.node.kwinputs = asked = Asked(self.node.kwinputs or {})
            yield self.node
            if dropped := asked.never():
                raise self._declined(f"it drops {', '.join(dropped)}")
        self.node = None

    def _passes(self, names: Iterable[Any], **_: Any) -> Iterator[Any]:
        listed = list(names)
        self._pipelines, self.node = self._pipelines + 1, None
        for index, name in enumerate(listed):
            self._tick(min(1.0, (self._pipelines + index / len(listed)) / (1 + _OPTIMISED)))
            yield name

    def _tick(self, done: float) -> None:
        limit = self.context.timeout_s
        if limit is not None and time.monotonic() - self._begun > limit:
            raise ExportFailed(
                f"the Core ML build did not finish within {limit:g} s", hint="give it more with --timeout"
            )
        self.context.progress(_PROGRESS, done)

    def refusal(self, exc: Exception) -> EdgeVitError:
        """What an exception of coremltools means: an operator it cannot translate, or a failed build."""
        if self.node is None:
            return ExportFailed(f"coremltools failed: {first_line(exc)}", hint="please report this model")
        return self._declined(first_line(exc))

    def _declined(self, why: str) -> Unsupported:
        call = self.called.get((self.node.meta or {}).get("debug_handle"))
        what = self.node.kind if call is None else named(call)
        return Unsupported(
            f"coremltools cannot translate {what}: {why}", hint="write the model without it, or export to onnx or tvm"
        )


class Asked(dict[str, Any]):
    """What a call was given by name, which remembers what its translation asked for: the rest it leaves out."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self._names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self._names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self._names.add(name)
        return super().__getitem__(name)

    def never(self) -> list[str]:
        """What was given and never asked for, of what makes a difference."""
        return sorted(self.keys() - self._names - _INDIFFERENT)
