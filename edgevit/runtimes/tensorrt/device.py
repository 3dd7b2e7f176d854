"""Engines on an NVIDIA GPU: TensorRT and cuda-bindings, no torch. It is thin, because no GPU was at hand to run it.

One call: inputs into pinned memory, copies, engine and copies back on one stream, one synchronise, outputs copied out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.engines.nvidia import Gpu, find_gpu
from edgevit.errors import EdgeVitError
from edgevit.runtimes.base import LayerTime, Session
from edgevit.runtimes.tensorrt.buffers import choose_profile, plan_buffers
from edgevit.runtimes.tensorrt.engine import Context, Log, make_logger, open_engine, profile_ranges
from edgevit.runtimes.tensorrt.layers import InspectedLayer, layer_times, parse_inspection, read_kernels
from edgevit.runtimes.tensorrt.lock import Lock, check_lock, read_lock, this_machine
from edgevit.runtimes.tensorrt.options import EngineOptions, check_provider, parse_options
from edgevit.sizes import Sides


class TensorRtRuntime:
    """Opens tensorrt artifacts.

    Options: ``cuda_graph`` = true replays one recorded graph per batch size (fewer launches, same results);
    ``runtime_cache`` = a file where TensorRT-RTX keeps the kernels that it compiled for this GPU.
    """

    name = "tensorrt"

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        """A session on the first visible GPU. Unsupported, MissingDependency or BadArtifact, before the engine is
        opened, when the manifest's lock does not fit this machine."""
        lock = read_lock(artifact)
        check_provider(provider)
        chosen = parse_options(options, lock)
        machine = this_machine(find_gpu)
        check_lock(lock, machine, artifact.manifest)
        if machine.gpu is None:
            raise EdgeVitError("no GPU, though the lock was checked")
        return TensorRtSession(artifact, threads, lock, machine.gpu, chosen)


class TensorRtSession(Session):
    """One engine on one GPU. Not thread-safe: its buffers are reused by every call."""

    runtime = "tensorrt"

    def __init__(self, artifact: Artifact, threads: int, lock: Lock, gpu: Gpu, options: EngineOptions) -> None:
        super().__init__(artifact, threads)
        from edgevit.runtimes.tensorrt.cuda import Block, Stream  # loads the CUDA runtime: only where there is a GPU

        trt, self._log = import_module(lock.package.module), Log()
        self._trt, self._options, self._new_block = trt, options, Block
        self._logger = make_logger(trt, self._log)
        self._runtime, self._engine = open_engine(trt, self._logger, self._log, artifact, lock)
        self._context = Context(trt, self._engine, self._log, options)
        self._plan = plan_buffers(self.inputs, self.outputs, artifact.manifest.batch.max)
        self._stream, self._block = Stream(), Block(self._plan.nbytes)
        self._captures = options.cuda_graph and not self._context.compiles_here  # RTX records graphs by itself
        self._captured = False
        self._rows, self._views = 0, dict[str, Array]()
        self._size: Sides | None = None
        self._open = True
        dynamic = [slot.name for slot in self._plan.inputs if slot.dynamic]
        self._ranges = profile_ranges(self._engine, dynamic[0]) if dynamic else []
        self.provider = f"{gpu.name} (SM {gpu.sm // 10}.{gpu.sm % 10})"
        self.details = {
            lock.package.module: str(trt.__version__),
            "gpu": self.provider,
            "cuda_driver": str(gpu.cuda_driver),
            "cuda_graph": str(options.cuda_graph).lower(),
            "runtime_cache": self._context.cache_state,
        }

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._fill(feeds)
        if self._captures:
            self._replay()
        else:
            self._enqueue(self._context.handle)
        self._stream.synchronize()
        return {slot.name: self._views[slot.name].copy() for slot in self._plan.outputs}

    def _fill(self, feeds: Mapping[str, Array]) -> None:
        """Inputs into pinned memory; where there are other rows or sizes, new views, shapes and addresses first."""
        if not self._open:
            raise EdgeVitError(f"the session on {self.artifact.path} was closed", hint="open another one")
        free = [slot.name for slot in self._plan.inputs if slot.dynamic]
        rows = feeds[free[0]].shape[0] if free else self.artifact.manifest.batch.max
        if (rows, size := self._size_of(feeds)) != (self._rows, self._size):
            self._lay_out(size)
            self._bind(self._context.handle, rows)
            self._captured, self._rows, self._size = False, rows, size
            slots = (*self._plan.inputs, *self._plan.outputs)
            self._views = {s.name: self._block.host_view(s.offset, s.shape(rows), s.dtype) for s in slots}
        for slot in self._plan.inputs:
            np.copyto(self._views[slot.name], feeds[slot.name])

    def _size_of(self, feeds: Mapping[str, Array]) -> Sides | None:
        """That of the images in ``feeds``, where it is free."""
        sizes = self.artifact.manifest.image_sizes
        return self.inputs[0].taken(feeds[self.inputs[0].name].shape, sizes) if sizes else None

    def _lay_out(self, size: Sides | None) -> None:
        """Places for images of a size, in a larger block where the one that is there is too small."""
        manifest = self.artifact.manifest.at(size)
        self._plan = plan_buffers(manifest.inputs, manifest.outputs, manifest.batch.max)
        if self._plan.nbytes > self._block.nbytes:
            before, self._block = self._block, self._new_block(self._plan.nbytes)
            before.free()

    def _bind(self, context: Any, rows: int) -> None:
        """Tell a context the profile, the shapes and the addresses of ``rows`` rows."""
        if self._ranges:
            profile = choose_profile(rows, self._ranges)
            if profile != context.active_optimization_profile:
                context.set_optimization_profile_async(profile, int(self._stream.handle))
        for slot in self._plan.inputs:
            if slot.free and not context.set_input_shape(slot.name, slot.shape(rows)):
                raise EdgeVitError(f"TensorRT refused {rows} rows of {slot.name}: {self._log.said()}")
        for slot in (*self._plan.inputs, *self._plan.outputs):
            context.set_tensor_address(slot.name, self._block.device + slot.offset)

    def _enqueue(self, context: Any) -> None:
        for slot in self._plan.inputs:
            self._block.copy_in(slot.offset, slot.nbytes(self._rows), self._stream.handle)
        if not context.execute_async_v3(int(self._stream.handle)):
            raise EdgeVitError(f"TensorRT could not run {self.artifact.path}: {self._log.said()}")
        for slot in self._plan.outputs:
            self._block.copy_out(slot.offset, slot.nbytes(self._rows), self._stream.handle)

    def _replay(self) -> None:
        """Launch the graph of this batch size; the first call of a size runs plainly and then records it."""
        if self._captured:
            self._stream.launch()
            return
        self._enqueue(self._context.handle)  # TensorRT allocates on first use, which a capture does not allow
        self._stream.synchronize()
        self._stream.begin_capture()
        self._enqueue(self._context.handle)
        self._stream.end_capture()
        self._captured = True
        self._stream.launch()

    def layers(self, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[LayerTime]:
        """Median time of every layer, in running order, by TensorRT's own profiler, in a context of its own.

        The sum is more than the latency of ``infer``: profiled layers do not overlap, and no graph is replayed.
        """
        for feed in feeds:
            self.check(feed)
        self._fill(feeds[0])
        context, samples = self._engine.create_execution_context(), dict[str, list[float]]()
        if context is None:
            raise EdgeVitError(f"TensorRT could not make a second execution context: {self._log.said()}")
        self._bind(context, self._rows)
        self._enqueue(context)  # not counted: what is compiled or allocated on first use
        self._stream.synchronize()
        profiler = context.profiler = _profiler(self._trt, samples)  # TensorRT keeps no reference of its own
        for run in range(runs):
            self._fill(feeds[run % len(feeds)])
            self._enqueue(context)
            self._stream.synchronize()
        del context, profiler
        return layer_times(samples, read_kernels(self.artifact.path), self.provider)

    def inspect(self) -> list[InspectedLayer]:
        """The opened engine's layers as its inspector tells them."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context.handle
        return parse_inspection(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._context.save_cache()
        self._views.clear()
        self._stream.destroy()
        self._block.free()
        del self._context, self._engine, self._runtime


def _profiler(trt: Any, samples: dict[str, list[float]]) -> Any:
    """An ``IProfiler`` that adds every layer's milliseconds to ``samples``."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            samples.setdefault(layer_name, []).append(ms)

    return Profiler()
