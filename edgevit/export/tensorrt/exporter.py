"""Captured program -> ONNX graph -> ``model.engine``. What runs in fp16 is written in the graph, never a flag."""

from __future__ import annotations

import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import BatchRange, PrecisionReport, TensorSpec
from edgevit.engines.nvidia import Flavor, find_gpu
from edgevit.export.base import Built, Capture, Context, Graph
from edgevit.export.compiler import run_compiler
from edgevit.export.onnx import ENTRY as ONNX_FILE
from edgevit.export.onnx import OnnxExporter, OnnxOptions
from edgevit.export.tensorrt.compile import LAYERS, Job
from edgevit.export.tensorrt.flavor import Driver, choose_flavor, driver_for
from edgevit.export.tensorrt.graph import prepare_graph
from edgevit.export.tensorrt.layers import check_network, shown
from edgevit.export.tensorrt.options import TensorRtOptions, check_flavor_has, tuned_batch
from edgevit.export.tensorrt.targets import choose_sms, sm_names
from edgevit.quantize.plan import NVIDIA
from edgevit.sizes import SizeRange

ENTRY = "model.engine"
COMPILE = "edgevit.export.tensorrt.compile:compile_engine"

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class TensorRtExporter:
    """Builds with ``tensorrt`` or ``tensorrt-rtx``; the second needs no GPU."""

    name = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    options = TensorRtOptions
    one_size = ""

    def write(
        self, capture: Capture | Graph, folder: Path, *, precision: str, options: TensorRtOptions, context: Context
    ) -> Built:
        """Build in a worker process. Raises Unsupported, ExportFailed, MissingDependency, UsageError."""
        begun = time.monotonic()
        flavor = choose_flavor(options.flavor)
        check_flavor_has(options, flavor)
        gpu = found.sm if (found := find_gpu()) else None
        sms = choose_sms(flavor, options.sms, gpu, known_capabilities(flavor))
        profiles = profile_shapes(capture.inputs, capture.batch, options, sizes_of(capture))
        context.progress(f"{flavor.title} {flavor.version()} for SM {sm_names(sms)}", None)
        with tempfile.TemporaryDirectory(prefix="edgevit-onnx-") as scratch:
            graph = OnnxExporter(lines=True, encoding=NVIDIA).write(
                capture, Path(scratch), precision=precision, options=OnnxOptions(), context=context
            )
            job = make_job(Path(scratch) / ONNX_FILE, folder, flavor, sms, profiles, options, context.threads)
            job["integers"] = integers_of(capture, graph, Path(scratch))
            answer = run(job, flavor, context, begun)
        check_network(graph.precision.layers, answer["network"])
        report = PrecisionReport(
            requested=precision,
            layers=answer["engine"] if answer["kernels"] else answer["network"],
            kept_fp32=graph.precision.kept_fp32,
        )
        return Built(
            entry=ENTRY,
            precision=report,
            plan=graph.plan,
            operators=graph.operators,
            constants=graph.constants,
            versions={**graph.versions, flavor.module.replace("_", "-"): answer["version"]},
            notes=tuple(notes(flavor, sms, options, gpu, answer)),
            lock=make_lock(
                flavor, flavor.version() or answer["version"], sms, driver_for(flavor), options, folder / ENTRY
            ),
        )


def integers_of(capture: Capture | Graph, graph: Built, scratch: Path) -> dict[str, Any] | None:
    """What the worker holds an int8 network against, None for floats."""
    if graph.plan is None or isinstance(capture, Graph):
        return None
    from edgevit.export.tensorrt.expected import expected  # torch, which an ONNX file does without

    return asdict(expected(capture, graph.plan, scratch))


def known_capabilities(flavor: Flavor) -> list[int]:
    """Those that an ahead-of-time flavour can target; empty for the other, which takes the GPU that is there."""
    if not flavor.ahead_of_time:
        return []
    members = flavor.load().ComputeCapability.__members__
    return [int(name.removeprefix("SM")) for name in members if name.startswith("SM")]


def sizes_of(capture: Capture | Graph) -> SizeRange | None:
    """The sizes of images that it takes, where that is a range."""
    return None if isinstance(capture, Graph) else capture.image_sizes


def profile_shapes(
    inputs: tuple[TensorSpec, ...], batch: BatchRange, options: TensorRtOptions, sizes: SizeRange | None = None
) -> dict[str, Shapes]:
    """Dynamic input -> its smallest, tuned and largest shape: tuned for images of the model's own size.

    UsageError for an ``opt_batch`` outside the range.
    """
    tuned = tuned_batch(options, batch.min, batch.max)
    low, high = (sizes.lowest, sizes.highest) if sizes else ((1, 1), (1, 1))
    return {
        spec.name: (_sized(spec.at(low), batch.min), _sized(spec, tuned), _sized(spec.at(high), batch.max))
        for spec in inputs
        if "batch" in spec.shape or spec.sides
    }


def _sized(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return tuple(rows if side == "batch" else side for side in spec.shape)


def make_job(
    graph: Path,
    folder: Path,
    flavor: Flavor,
    sms: tuple[int, ...],
    profiles: dict[str, Shapes],
    options: TensorRtOptions,
    threads: int | None,
) -> dict[str, Any]:
    """The worker's payload. ``graph`` is rewritten where TensorRT needs it."""
    places = prepare_graph(graph)
    return Job(
        flavor=flavor.name,
        onnx=str(graph),
        engine=str(folder / ENTRY),
        layers=str(folder / LAYERS),
        sm=sms,
        profiles=profiles,
        modules=places.modules,
        lines=places.lines,
        optimization_level=options.optimization_level,
        workspace_mb=options.workspace_mb,
        timing_cache=str(Path(options.timing_cache).expanduser().absolute()) if options.timing_cache else "",
        version_compatible=options.version_compatible,
        threads=threads,
    ).payload()


def run(job: dict[str, Any], flavor: Flavor, context: Context, begun: float) -> dict[str, Any]:
    """The worker's answer. ``context.timeout_s`` counts from ``begun`` (``time.monotonic()``)."""
    faster = "build faster with --option tensorrt.optimization_level=0"
    return run_compiler(COMPILE, job, context, begun, title=flavor.title, faster=faster)


def notes(
    flavor: Flavor, sms: tuple[int, ...], options: TensorRtOptions, gpu: int | None, answer: dict[str, Any]
) -> list[str]:
    """What a reader of the manifest should know about this build."""
    chosen = "as asked" if options.sm else ("the GPU of the build host" if gpu is not None else "default without a GPU")
    found = [
        f"built by {flavor.title} {answer['version']} for SM {sm_names(sms)} ({chosen}) in {answer['seconds']:.1f} s"
    ]
    network = f"{shown(answer['network'])} compute layers in the strongly typed network"
    if answer["kernels"]:
        where = f"{answer['kernels']} kernels that the builder lists for the engine (layers.json)"
        found.append(f"{network}; found among the {where}: {shown(answer['engine'])}")
    else:
        found.append(f"{network}; this builder lists no kernels, so the engine itself was not counted")
    if answer["floats"]:
        found.append(f"the builder lists no kernel that reads int8 for {', '.join(answer['floats'])}: floats there")
    if answer["held"]:
        found.append(answer["held"])
    if flavor.name == "tensorrt":
        found.append("the flavour tensorrt is untested by edgevit's authors")
    return found


def make_lock(
    flavor: Flavor, version: str, sms: tuple[int, ...], driver: Driver, options: TensorRtOptions, engine: Path
) -> dict[str, str | int | list[int]]:
    """What the runtime checks before it opens the engine."""
    return {
        "flavor": flavor.name,
        "version": version,
        "accepts": "newer" if options.version_compatible else "same",
        "sm": list(sms),
        "platform": "any" if flavor.ahead_of_time else f"{platform.system()}-{platform.machine()}",
        "cuda_driver": driver.cuda,
        "driver": driver.words,
        "sha256": sha256_of(engine),
    }
