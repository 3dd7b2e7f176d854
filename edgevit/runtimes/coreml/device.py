"""Core ML on a Mac, by ``coremltools.models.MLModel``. It is thin, because no Mac was at hand to run it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from PIL import Image

from edgevit.artifact.manifest import Array, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, UnknownName, Unsupported, UsageError
from edgevit.quantize.operators import Operator
from edgevit.quantize.plan import QuantPlan
from edgevit.runtimes.base import LayerTime, Session
from edgevit.runtimes.coreml.here import lacking
from edgevit.runtimes.coreml.integers import Stored
from edgevit.runtimes.coreml.plan import Placement, layer_times, placements, read_modules
from edgevit.runtimes.coreml.program import own_words

UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE"}
_OF_OPTION = {"all": "all", "cpu_only": "cpu", "cpu_and_gpu": "gpu", "cpu_and_ne": "ane"}


class CoreMlRuntime:
    """Opens coreml artifacts on macOS, without options.

    Providers: cpu, gpu (with the CPU), ane (Neural Engine with the CPU) or all; default: the compute units that the
    artifact was built for. Core ML itself decides which of the allowed units runs an operation, see ``compute_plan``.
    """

    name = "coreml"

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """A session. Unsupported off macOS, UnknownName for a provider, BadArtifact when Core ML refuses the file."""
        if options:
            raise UsageError(f"the Core ML runtime has no option {sorted(options)[0]}", hint="leave --option out")
        units = choose_units(provider, artifact.manifest.options)
        if missing := lacking(artifact.manifest.options):
            raise Unsupported(missing, hint="to verify the package here, use --runtime coreml-reference")
        from coremltools import ComputeUnit
        from coremltools.models import MLModel

        try:
            model = MLModel(str(artifact.entry), compute_units=ComputeUnit[UNITS[units]])
        except Exception as exc:
            raise BadArtifact(f"Core ML refuses {artifact.named}: {exc}", hint="export anew") from exc
        return CoreMlSession(artifact, threads, model, units)


def choose_units(provider: str | None, options: Mapping[str, object]) -> str:
    """Our name of the compute units: ``provider``, else what the exporter's option says. UnknownName for others."""
    if provider is None:
        return _OF_OPTION[str(options.get("compute_units", "all"))]
    if provider not in UNITS:
        raise UnknownName("provider", provider, UNITS)
    return provider


class CoreMlSession(Session):
    """One package, compiled and loaded by Core ML."""

    runtime = "coreml"

    def __init__(self, artifact: Artifact, threads: int, model: Any, units: str) -> None:
        super().__init__(artifact, threads)
        self._model = model
        self._picture = artifact.manifest.options.get("image_input") is True
        self.provider = units
        self.words = own_words(getattr(model, "user_defined_metadata", {}))
        self.details = {
            "coremltools": metadata.version("coremltools"),
            "compute_units": UNITS[units],
            "threads": "chosen by Core ML",
        }

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._model is None:
            raise EdgeVitError(f"the session on {self.artifact.path} was closed", hint="open another one")
        given = self._given(feeds)
        try:
            found = self._model.predict(given)
        except Exception as exc:
            raise EdgeVitError(f"Core ML could not run {self.artifact.path}: {exc}") from exc
        return {spec.name: np.asarray(found[spec.name]).astype(spec.dtype, copy=False) for spec in self.outputs}

    def _given(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        return {spec.name: as_core_ml(spec, feeds[spec.name], picture=self._picture) for spec in self.inputs}

    def compute_plan(self) -> list[Placement]:
        """Where Core ML means to run every operation, and what it expects it to cost."""
        from coremltools import ComputeUnit
        from coremltools.models.compute_plan import MLComputePlan

        path = self._model.get_compiled_model_path()
        return placements(MLComputePlan.load_from_path(path, compute_units=ComputeUnit[UNITS[self.provider]]))

    def layers(self, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[LayerTime]:
        """The compute plan's shares of the median of ``runs`` inferences, timed by coremltools' benchmarker.

        Core ML times no single operation: these are estimates, and only the first of ``feeds`` is used.
        """
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        timed = asyncio.run(
            MLModelBenchmarker(self._model).benchmark_predict(self._given(feeds[0]), iterations=runs, warmup=True)
        )
        total = float(np.median(timed.samples))
        return layer_times(self.compute_plan(), read_modules(self.artifact.path), total)

    def operators(self, plan: QuantPlan) -> Sequence[Operator]:
        return Stored.of(self.artifact).operators(plan)

    def close(self) -> None:
        self._model = None


def as_core_ml(spec: TensorSpec, array: Array, *, picture: bool) -> Any:
    """``array`` as Core ML takes it: a picture where the package wants one, other pixels as float32 (without loss)."""
    if picture and spec.role == "image":
        return Image.fromarray(array[0])
    if spec.dtype == "uint8":
        return array.astype(np.float32)
    return array
